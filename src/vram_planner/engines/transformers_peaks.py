"""
Live bytes of one forward pass of transformers, moment by moment, read off its modeling code.

Every figure is what `torch.cuda.max_memory_allocated` would add to the weights: each tensor rounded up
to 512 bytes, as the caching allocator does. Symbols used throughout:

    B  requests in the batch      L  query tokens of each (prompt at prefill, 1 at decode)
    T  B · L                      K  keys that a layer attends to
    H  hidden size                h  query heads       b  bytes of one activation
    I  width of the MLP           S  T · experts per token

Source: transformers 5.23.0, models/*/modeling_*.py, integrations/{sdpa_attention,moe}.py, cache_utils.py,
https://github.com/huggingface/transformers/tree/v5.23.0/src/transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vram_planner.architecture.attention import FullAttention, Latent, SlidingWindow
from vram_planner.architecture.feed_forward import DenseMLP, MixtureOfExperts
from vram_planner.errors import UnsupportedArchitectureError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.cache import KvCache
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Layer

BLOCK_BYTES = 512  # c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize
WINDOW_TENSOR_BYTES = 8  # DynamicSlidingWindowLayer keeps its window as an int64 tensor
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
    widths of keys and values differ (as on CPU; CUDA has the memory-efficient kernel for that).
    """

    batch: int
    new: int
    past: int = 0
    attn: str = "sdpa"
    element_bytes: int = 2
    math_kernel: bool = False

    @property
    def tokens(self) -> int:
        """T: query tokens of the whole batch."""
        return self.batch * self.new

    @property
    def total(self) -> int:
        """Tokens of one request once the pass is over."""
        return self.past + self.new

    def keys(self, window: int | None) -> int:
        """K: keys a layer sees; a sliding layer at decode has its last window − 1 and the new one."""
        return self.total if window is None or self.past == 0 else min(self.total, window)

    def size(self, elements: int, n_bytes: int | None = None) -> int:
        """One tensor of activations."""
        return rounded(elements * (n_bytes or self.element_bytes))


def stored_tokens(total: int, window: int | None, *, decoded: bool) -> int:
    """
    Tokens whose keys and values one layer's storage holds: n, or min(n, window) once decoding has begun.

    After prefill a sliding layer keeps a view of its last window − 1 tokens, and the view pins the whole
    prompt's storage; the first decode step concatenates window − 1 old tokens and a new one into new storage.
    Source: DynamicSlidingWindowLayer.update, cache_utils.py.
    """
    return min(total, window) if window is not None and decoded else total


def layer_cache_bytes(cache: KvCache, tokens: int, element_bytes: int) -> tuple[int, int]:
    """
    Bytes of the two tensors that one layer caches for `tokens` tokens.

    Keys and values of every KV head; for MLA the latent and the shared rotary key, whose widths only
    matter as a sum: they are cached compressed (DeepseekV3Attention.forward, "while latent KV is still compressed").
    """
    return (
        cache.n_heads * cache.key_dim * tokens * element_bytes,
        cache.n_heads * cache.value_dim * tokens * element_bytes,
    )


def cache_bytes(cache: KvCache, batch: int, tokens: int, element_bytes: int) -> int:
    """Bytes of one layer's cache as its tensors' storages hold them, the window's own tensor included."""
    window = 0 if cache.window is None else WINDOW_TENSOR_BYTES
    return batch * sum(layer_cache_bytes(cache, tokens, element_bytes)) + window


def _gated_width(block: DenseMLP) -> int:
    """
    Widths alive when an MLP multiplies: act(gate), up and the product; fused gate_up keeps 2 I beside both.

    Source: LlamaMLP.forward, Phi3MLP.forward.
    """
    if not block.gated:
        return 2 * block.intermediate
    return (4 if block.fused else 3) * block.intermediate


def feed_forward_bytes(block: FeedForward, step: Pass) -> int:
    """Peak of a feed-forward block beyond its input."""
    if isinstance(block, DenseMLP):
        return _gated_width(block) // block.intermediate * step.size(step.tokens * block.intermediate)
    if isinstance(block, MixtureOfExperts):
        return _experts_bytes(block, step)
    raise UnsupportedArchitectureError(
        f"the transformers engine does not know the block {type(block).__name__}", hint="use --engine vllm"
    )


def _experts_bytes(block: MixtureOfExperts, step: Pass) -> int:
    """
    Peak of grouped_mm_experts_forward: max(S·(H + 4·I) + biases, 4·S·H), or the shared block after it.

    First moment: the sorted copy of the input, gate_up (2 I), act(gate) and the product. Second: sorted input,
    output, weighted output and the same in the old order. Beside them: indices (sorted, order, inverse, chosen), weights,
    the histogram's input, router logits.
    """
    tokens, pairs = step.tokens, step.tokens * block.top_k
    rows, width = step.size(pairs * block.hidden), step.size(pairs * block.expert_intermediate)
    gate = (4 if block.gated else 2) * width + (2 * width if block.bias else 0)
    books = 3 * rounded(pairs * INDEX_BYTES) + rounded(pairs * FLOAT_BYTES) + 2 * step.size(pairs)
    books += step.size(tokens * block.n_experts) + 2 * rounded(block.n_experts * FLOAT_BYTES)
    routed = max(rows + gate, 4 * rows + rounded(pairs * INDEX_BYTES)) + books
    if block.shared is None:
        return routed
    shared = step.size(tokens * block.hidden) + feed_forward_bytes(block.shared, step)
    return max(routed, shared + step.size(tokens * block.n_experts))


def mask_bytes(windows: Iterable[int | None], step: Pass) -> int:
    """
    Bytes of the causal masks, one for each kind of layer, shared by the batch.

    Eager attention adds a mask of L · K activations. sdpa and flash leave the mask out, unless a window is shorter than
    the prompt: then sdpa gets L · K booleans (masking_utils.py, _ignore_causal_mask_sdpa; flash cuts by itself).
    """
    if step.attn == "eager":
        return sum(step.size(step.new * step.keys(window)) for window in windows)
    if step.attn != "sdpa" or step.new == 1:
        return 0
    return sum(
        rounded(step.new * step.keys(window))
        for window in windows
        if window is not None and window < step.total
    )


def _scores_bytes(heads: int, keys: int, step: Pass, *, sinks: bool) -> int:
    """
    Copies of the B · h · L · K scores at eager attention's peak, the softmax.

    The scores, their float32 copy and its softmax: b + 4 + 4 bytes each (4 + 4 in float32). With sinks the softmax stays
    in b: scores, scores with the sink beside them, and the same less their maximum: 3 b.
    Source: eager_attention_forward of Llama and of gpt-oss.
    """
    count = step.batch * heads * step.new * keys
    if sinks:
        wide = count + step.batch * heads * step.new
        return step.size(count) + 2 * step.size(wide)
    floats = 2 if step.element_bytes < FLOAT_BYTES else 1
    return step.size(count) + floats * rounded(count * FLOAT_BYTES)


def mixer_bytes(mixer: Mixer, step: Pass) -> int:
    """Peak of attention proper, once this layer's cache is written, beyond hidden states, masks and cache."""
    if isinstance(mixer, Latent):
        return _latent_bytes(mixer, step)
    inner = mixer.inner if isinstance(mixer, SlidingWindow) else mixer
    if not isinstance(inner, FullAttention):
        raise UnsupportedArchitectureError(
            f"the transformers engine does not know the layer {type(mixer).__name__}",
            hint="use --engine vllm",
        )
    window = mixer.window if isinstance(mixer, SlidingWindow) else None
    keys = step.keys(window)
    query = output = step.size(step.tokens * inner.n_heads * inner.head_dim)
    copies = 0  # repeat_kv: eager always, sdpa only beside a mask; of a single head it is a view
    if inner.n_heads > inner.n_kv_heads > 1:
        copies = 2 * step.size(step.batch * keys * inner.n_heads * inner.head_dim)
    if inner.fused_qkv:  # Phi3Attention.forward keeps the fused projection until it returns
        query += step.size(step.tokens * (inner.n_heads + 2 * inner.n_kv_heads) * inner.head_dim)
    if step.attn == "eager":
        return query + copies + _scores_bytes(inner.n_heads, keys, step, sinks=inner.sinks)
    masked = window is not None and window < step.total and step.new > 1 and step.attn == "sdpa"
    softmax = rounded(step.tokens * inner.n_heads * FLOAT_BYTES)  # the fused kernels keep log-sum-exp
    return query + output + softmax + (copies if masked else 0)


def _latent_bytes(mixer: Latent, step: Pass) -> int:
    """
    MLA expands the cached latent for every head at every step: keys h·(nope + rope), kv_b's output h·(nope + v).

    Beside them live the projected queries, their rotary part, the queries put together, the compressed input.
    The unfused sdpa adds float32 copies: q twice, k, v, a mask, and two of the scores.
    Source: DeepseekV3Attention.forward and expand_kv; at::_scaled_dot_product_attention_math.
    """
    heads, key_dim = mixer.n_heads, mixer.nope_dim + mixer.rope_dim
    stored = step.batch * step.total
    kept = 2 * step.size(step.tokens * heads * key_dim) + step.size(step.tokens * heads * mixer.rope_dim)
    kept += step.size(step.tokens * (mixer.kv_rank + mixer.rope_dim))
    kept += step.size(stored * heads * key_dim) + step.size(
        stored * heads * (mixer.nope_dim + mixer.value_dim)
    )
    if step.attn == "eager":
        return kept + _scores_bytes(heads, step.total, step, sinks=False)
    if step.attn == "sdpa" and step.math_kernel and key_dim != mixer.value_dim:
        return kept + _math_kernel_bytes(mixer, step)
    padded = step.size(step.tokens * heads * key_dim) if step.attn == "flash_attention_2" else 0
    return kept + 2 * step.size(step.tokens * heads * mixer.value_dim) + padded


def _math_kernel_bytes(mixer: Latent, step: Pass) -> int:
    """
    at::_scaled_dot_product_attention_math in float32: q, k and v, then scaled copies of q and k for one product.

    While the product is made: q and k twice, v, the scores; while the mask is added: q twice, k, v, mask, scores twice.
    """
    heads, key_dim = mixer.n_heads, mixer.nope_dim + mixer.rope_dim
    stored = step.batch * step.total
    query = rounded(step.tokens * heads * key_dim * FLOAT_BYTES)
    key = rounded(stored * heads * key_dim * FLOAT_BYTES)
    value = rounded(stored * heads * mixer.value_dim * FLOAT_BYTES)
    scores = rounded(step.tokens * heads * step.total * FLOAT_BYTES)
    mask = rounded(step.new * step.total * FLOAT_BYTES) if step.new > 1 else 0
    return 2 * query + key + value + mask + scores + max(key, scores)


def _before_cache_bytes(mixer: Mixer, step: Pass) -> int:
    """
    Peak of projections, head norms and rotation, before the layer's cache is written.

    Rotation: q, q·cos, rotate_half(q), its product with sin, and k and v. Norms over heads work in float32: q, its float32
    copy and the normalised one, twice over (Qwen3RMSNorm.forward).
    """
    if isinstance(mixer, Latent):
        return 0  # what expand_kv makes is larger by far
    inner = mixer.inner if isinstance(mixer, SlidingWindow) else mixer
    if not isinstance(inner, FullAttention):
        return 0
    query = step.size(step.tokens * inner.n_heads * inner.head_dim)
    pair = 2 * step.size(step.tokens * inner.n_kv_heads * inner.head_dim)
    normed = 0 if inner.qk_norm is None else query + 2 * FLOAT_BYTES // step.element_bytes * query
    return pair + max(4 * query, normed)


def fresh_bytes(cache: KvCache, step: Pass) -> int:
    """The keys and values (or the two latents) of the new tokens, before they are appended."""
    return 2 * step.size(step.tokens * cache.n_heads * max(cache.key_dim, 1))


def _appended_bytes(cache: KvCache, step: Pass) -> int:
    """
    What appending to one layer's cache holds at its peak beyond the cache after it.

    torch.cat makes new keys, drops the old, then new values while the old are alive: old values, and the appended k and v.
    A sliding layer concatenates both before it drops either. At prefill nothing is old.
    """
    fresh = fresh_bytes(cache, step)
    if step.past == 0:
        return fresh
    past = step.batch * step.past * cache.n_heads
    if cache.window is None:
        return fresh + step.size(past * cache.value_dim)
    old = step.batch * min(step.past, cache.window) * cache.n_heads
    return fresh + step.size(old * cache.key_dim) + step.size(old * cache.value_dim)


def layer_bytes(layer: Layer, cache: KvCache | None, step: Pass, hidden: int) -> int:
    """
    Peak of one layer beyond the cache of all layers and the masks.

    Beside each stage live the embedded input, the layer's input, and the normalised input; in the
    feed-forward block also the sum after attention. A norm holds two float32 copies of its input.
    Until the layer's own cache is written its bytes are still to come.
    """
    state = step.size(step.tokens * hidden)
    stages = [
        3 * state + mixer_bytes(layer.mixer, step),
        4 * state + feed_forward_bytes(layer.feed_forward, step),
        3 * state + 2 * FLOAT_BYTES // step.element_bytes * state,
    ]
    if cache is not None:
        query = 0 if cache.latent else step.size(step.tokens * layer.mixer.n_heads * cache.key_dim)
        stages.append(3 * state + query + _appended_bytes(cache, step))
        to_come = sum(layer_cache_bytes(cache, step.tokens, step.element_bytes))
        stages.append(3 * state + _before_cache_bytes(layer.mixer, step) - to_come)
    return max(stages)
