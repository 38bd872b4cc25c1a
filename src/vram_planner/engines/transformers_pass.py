"""One forward pass of transformers, and how the caching allocator counts a tensor."""

from __future__ import annotations

from dataclasses import dataclass

BLOCK_BYTES = 512  # c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize
FLOAT_BYTES = 4
INDEX_BYTES = 8


def rounded(n_bytes: int) -> int:
    """One tensor as the caching allocator counts it."""
    return -(-n_bytes // BLOCK_BYTES) * BLOCK_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """
    One forward pass: `batch` requests with `past` cached tokens each and `new` query tokens.

    `math_kernel` says that `scaled_dot_product_attention` falls back to its unfused form where the
    widths of keys and values differ (as on CPU; CUDA has the memory-efficient kernel for that). `fused` says that
    recurrent layers run on the kernels of mamba-ssm, causal-conv1d and flash-linear-attention. `static` is the
    number of tokens that a StaticCache was made for, None for a DynamicCache. `upcast` says that all logits kept are
    turned into float32, as before 4.45. `padded` says that prompts are filled up to the longest, so that there is a
    mask of each request in every pass.
    """

    batch: int
    new: int
    past: int = 0
    attn: str = "sdpa"
    element_bytes: int = 2
    math_kernel: bool = False
    fused: bool = False
    static: int | None = None
    upcast: bool = False
    padded: bool = False

    def decode(self, past: int) -> Pass:
        """One token more for each request, `past` tokens being cached."""
        return Pass(
            batch=self.batch,
            new=1,
            past=past,
            attn=self.attn,
            element_bytes=self.element_bytes,
            math_kernel=self.math_kernel,
            fused=self.fused,
            static=self.static,
            upcast=self.upcast,
            padded=self.padded,
        )

    @property
    def tokens(self) -> int:
        """T: query tokens of the whole batch."""
        return self.batch * self.new

    @property
    def total(self) -> int:
        """Tokens of one request once the pass is over."""
        return self.past + self.new

    def keys(self, window: int | None) -> int:
        """
        K: keys a layer sees; a sliding layer at decode has its last window − 1 and the new one.

        With a StaticCache all its places, filled or not; a prompt longer than a window is seen whole.
        """
        if self.static is not None:
            places = self.static if window is None else min(window, self.static)
            return max(places, self.new)
        return self.total if window is None or self.past == 0 else min(self.total, window)

    # Both are `rounded`, written out: a plan asks them some hundred times.
    def size(self, elements: int) -> int:
        """One tensor of activations."""
        return -(-elements * self.element_bytes // BLOCK_BYTES) * BLOCK_BYTES

    def floats(self, elements: int) -> int:
        """One tensor of float32."""
        return -(-elements * FLOAT_BYTES // BLOCK_BYTES) * BLOCK_BYTES
