"""
Tools to write down the graph of one picture that llama.cpp reserves at its start for a projector (mmproj).

Operands come in ggml's order, for this decides the order of the graph. A tensor that is read through a view is never
written over.
Source (b11434): tools/mtmd/clip.cpp (clip_graph: build_inp, build_vit, build_norm, build_ffn, build_attn,
build_patch_merge_permute; clip_model_loader::warmup and reserve_compute_meta).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vram_planner.engines.llama_cpp_alloc import Graph

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vram_planner.architecture.projector import Projector

_HOST_ALIGNMENT = 32
_FLOAT, _HALF = 4, 2
_CLAMPED = ("gemma4v", "gemma4a")  # whether the file has bounds or not
# Head sizes that the CUDA kernels have. Source: ggml/src/ggml-cuda/fattn.cu, ggml_cuda_get_best_fattn_kernel.
FLASH_HEADS = (40, 64, 72, 80, 96, 112, 128, 256)


class Made(NamedTuple):
    """A tensor of the graph: its number, its bytes, and whether it is read through a view."""

    number: int
    n_bytes: int
    view: bool = False

    @property
    def seen(self) -> Made:
        """The same through a view."""
        return self._replace(view=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vit:
    """
    What tells one vision transformer from another.

    `rms`: norms without a mean. `position`: a learned embedding is added. `turned`: what turns queries and keys,
    None for nothing. `tokens`: patches and the class token.
    """

    tokens: int
    rms: bool = False
    position: Sequence[Made] | None = None
    turned: Callable[[Made], Made] | None = None
    normed_values: bool = False


@dataclass(slots=True, kw_only=True)
class Clip:
    """
    The graph of a projector for a picture of `side` pixels a side.

    `on_host` writes the graph for the CPU, where inputs lie in the same buffer and are not copied.
    """

    projector: Projector
    side: int
    flash: bool
    on_host: bool = False
    graph: Graph = field(init=False)
    _arrived: dict[str, Made] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin an empty graph."""
        self.graph = Graph(alignment=_HOST_ALIGNMENT) if self.on_host else Graph()

    @property
    def patches(self) -> int:
        """Patches of the picture: (side / patch)²."""
        return (self.side // self.projector.patch) ** 2

    @property
    def width(self) -> int:
        """Size of the stream."""
        return self.projector.width

    def peak(self, result: Made) -> int:
        """Bytes of the buffer once all is written."""
        self.graph.expand(result.number)
        return self.graph.peak()

    def new(self, n_bytes: int, *sources: Made) -> Made:
        """A tensor of its own place."""
        return Made(self.graph.tensor(n_bytes, *(source.number for source in sources)), n_bytes)

    def rows(self, numbers: int, tokens: int, *sources: Made) -> Made:
        """A tensor of that many float32 numbers a token."""
        return self.new(numbers * tokens * _FLOAT, *sources)

    def over(self, first: Made, *others: Made) -> Made:
        """An operation that may write over any operand of the result's size, the first one first."""
        operands = (first, *others)
        n_bytes = max(made.n_bytes for made in operands)
        free = tuple(made.number for made in operands if made.n_bytes == n_bytes and not made.view)
        numbers = tuple(made.number for made in operands)
        return Made(self.graph.tensor(n_bytes, *numbers, over=free), n_bytes)

    def same(self, made: Made) -> Made:
        """A tensor as large, which is not written over this one: a copy, a norm with a mean, a rotary embedding."""
        return self.new(made.n_bytes, made)

    def input(self, name: str, n_bytes: int) -> Made:
        """What the host fills in: a copy of it on the GPU."""
        if name not in self._arrived:
            number = self.graph.leaf(n_bytes) if self.on_host else self.graph.copied(n_bytes)
            self._arrived[name] = Made(number, n_bytes)
        return self._arrived[name]

    def picture(self) -> Made:
        """The picture itself: three float32 numbers a pixel."""
        return self.input("picture", 3 * self.side**2 * _FLOAT)

    def numbers(self, name: str, count: int) -> Made:
        """An input of int32 numbers."""
        return self.input(name, count * 4)

    def product(self, name: str, source: Made, tokens: int) -> Made:
        """A matrix of the file times activations, and its bias where it has one; Gemma 4 clamps both sides of it."""
        clamped = self.projector.kind in _CLAMPED
        result = self.rows(
            self.projector.rows(f"{name}.weight"), tokens, self.over(source) if clamped else source
        )
        result = self.over(result) if clamped else result
        return self.over(result) if self.projector.has(f"{name}.bias") else result

    def norm(self, source: Made, name: str, *, rms: bool) -> Made:
        """Scale to unit size, then weights, then a bias, where the file has them."""
        made = self.over(source) if rms and not source.view else self.same(source)
        for part in ("weight", "bias"):
            if self.projector.has(f"{name}.{part}"):
                made = self.over(made)
        return made

    def convolution(self, picture: Made, kernel: str = "v.patch_embd.weight") -> Made:
        """
        Patches of the picture times the kernel: columns of numbers, their product, and that with its dimensions in order.

        The columns are float16, but for a bfloat16 kernel. Source: ggml/src/ggml.c, ggml_conv_2d.
        """
        shape = self.projector.tensors[kernel]
        width = _FLOAT if shape.type_name == "bf16" else _HALF
        columns = self.new(shape.shape[1] * shape.shape[2] * shape.shape[3] * self.patches * width, picture)
        return self.same(self.rows(shape.shape[0], self.patches, columns.seen))

    def embedded(self) -> Made:
        """The patches as the stream's first input."""
        made = self.same(self.convolution(self.picture()).seen)
        return self.over(made) if self.projector.has("v.patch_embd.bias") else made

    def attended(self, layer: str, made: tuple[Made, Made, Made], tokens: int, mask: Made | None) -> Made:
        """Queries, keys and values as they are read through views, to the result of the output's projection."""
        query, key, value = made
        self.graph.expand(query.number, key.number, value.number)
        size = tokens * self.width * _FLOAT
        if self.flash:
            halves = [self.new(one.n_bytes // 2, one) for one in (key, value)]
            if mask is not None:
                halves.append(self.new(tokens * tokens * _HALF, mask))
            mixed = self.new(size, query.seen, *halves)
        else:
            turned = self.new(value.n_bytes, value)
            scores = self.new(tokens * tokens * self.projector.heads * _FLOAT, key.seen, query.seen)
            scores = self.over(scores, *(() if mask is None else (mask,)))
            mixed = self.same(self.new(size, turned, scores).seen)
        return self.product(f"{layer}.attn_out", mixed.seen, tokens)

    def queries_keys_values(self, layer: str, normed: Made, vit: Vit) -> tuple[Made, Made, Made]:
        """The three projections of a layer, normed and turned where it does so."""
        rms, has = vit.rms, self.projector.has
        if has(f"{layer}.attn_qkv.weight"):
            fused = self.product(f"{layer}.attn_qkv", normed, vit.tokens)
            three = [fused._replace(n_bytes=fused.n_bytes // 3).seen for _ in range(3)]
        else:
            three = [self.product(f"{layer}.attn_{letter}", normed, vit.tokens) for letter in "qkv"]
        turned = []
        for letter, made in zip("qkv", three, strict=True):
            result, name = made.seen, f"{layer}.attn_{letter}_norm"
            if has(f"{name}.weight"):
                by_head = self.projector.rows(f"{name}.weight") != self.width
                result = self.norm(made.seen if by_head else made, name, rms=rms)
                result = result if by_head else result.seen
            if vit.turned is not None and letter != "v":
                result = vit.turned(result)
            if vit.normed_values and letter == "v":
                result = self.same(result)
            turned.append(result)
        return turned[0], turned[1], turned[2]

    def fed(self, layer: str, normed: Made, tokens: int) -> Made:
        """The feed-forward block: with a gate its two halves become a third tensor, else it is written over."""
        gated = self.projector.has(f"{layer}.ffn_gate.weight")
        first, last = self.up_and_down(layer)
        if gated:
            gate = self.product(f"{layer}.ffn_gate", normed, tokens)
            up = self.product(first, normed, tokens)
            middle = self.new(up.n_bytes, gate, up)
        else:
            middle = self.over(self.product(first, normed, tokens))
        return self.product(last, middle, tokens)

    def up_and_down(self, layer: str) -> tuple[str, str]:
        """The names of the matrices in and out: old files have them the other way round."""
        up, down = f"{layer}.ffn_up", f"{layer}.ffn_down"
        swapped = self.projector.tensors[f"{down}.weight"].shape[1] == self.width
        return (down, up) if swapped and self.projector.rows(f"{up}.weight") == self.width else (up, down)

    def scaled(self, made: Made, name: str) -> Made:
        """Times a vector of the file, if it has that."""
        return self.over(made) if self.projector.has(f"{name}.weight") else made

    def layer(self, index: int, stream: Made, vit: Vit, mask: Made | None = None) -> Made:
        """One layer of the transformer: attention and feed-forward, each behind a norm."""
        layer = f"v.blk.{index}"
        normed = self.norm(stream, f"{layer}.ln1", rms=vit.rms)
        three = self.queries_keys_values(layer, normed, vit)
        found = self.scaled(self.attended(layer, three, vit.tokens, mask), f"{layer}.ls1")
        if self.projector.has(f"{layer}.attn_post_norm.weight"):
            found = self.norm(found, f"{layer}.attn_post_norm", rms=vit.rms)
        middle = self.over(found, stream)
        fed = self.fed(layer, self.norm(middle, f"{layer}.ln2", rms=vit.rms), vit.tokens)
        if self.projector.has(f"{layer}.ffn_post_norm.weight"):
            fed = self.norm(fed, f"{layer}.ffn_post_norm", rms=vit.rms)
        result = self.over(middle, self.scaled(fed, f"{layer}.ls2"))
        return self.scaled(result, f"{layer}.out_scale")

    def tower(self, stream: Made, vit: Vit) -> Made:
        """All layers, with what comes before the first and after the last; its result is read through a view."""
        if vit.position is not None:
            stream = self.over(stream, *vit.position)
        stream = stream.seen
        if self.projector.has("v.pre_ln.weight"):
            stream = self.norm(stream, "v.pre_ln", rms=vit.rms)
        for index in range(self.projector.layers):
            stream = self.layer(index, stream, vit)
        if self.projector.has("v.post_ln.weight"):
            stream = self.norm(stream, "v.post_ln", rms=vit.rms)
        return stream.seen
