"""A projector's file before its types: names and shapes, and what the graph of a picture needs to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vram_planner.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.model_profiles.config import Config

Shape = tuple[int, ...]
_MOST_LAYERS = 128
LARGEST_IMAGE = 8192


@dataclass(slots=True, kw_only=True)
class Sketch:
    """
    See `Projector`. `types` are those that the file can have, `forced` those of tensors whatever the file's is.

    `plain` are tensors of the file's own type that the converter would leave in float32 elsewhere.
    """

    kind: str
    layers: int
    width: int
    heads: int
    image: int
    patch: int
    merge: int
    full_every: int = 0
    types: tuple[str, ...] = ("f16", "bf16", "q8_0", "f32")
    forced: Mapping[str, str] = field(default_factory=dict)
    plain: tuple[str, ...] = ()
    shapes: dict[str, Shape] = field(default_factory=dict)
    sound: Sketch | None = None

    def add(self, **shapes: Shape) -> None:
        """Tensors of the whole: a dot in their names is written as two underscores."""
        self.shapes |= {name.replace("__", "."): shape for name, shape in shapes.items()}

    def linear(self, name: str, rows: int, columns: int, *, bias: bool = True) -> None:
        """A matrix, and its bias."""
        self.shapes[f"{name}.weight"] = (rows, columns)
        if bias:
            self.shapes[f"{name}.bias"] = (rows,)

    def norm(self, name: str, width: int, *, bias: bool = True) -> None:
        """The weights of a norm, and its shift."""
        self.shapes[f"{name}.weight"] = (width,)
        if bias:
            self.shapes[f"{name}.bias"] = (width,)

    def patches(self, *, bias: bool = True, frames: int = 1) -> None:
        """The kernel of the patches, once for each of two frames."""
        for name in ("v.patch_embd.weight", "v.patch_embd.weight.1")[:frames]:
            self.shapes[name] = (self.width, 3, self.patch, self.patch)
        if bias:
            self.shapes["v.patch_embd.bias"] = (self.width,)

    def positions(self, count: int) -> None:
        """The table of learned positions."""
        self.shapes["v.position_embd.weight"] = (count, self.width)

    def block(
        self, index: int, inner: int, *, gated: bool = False, bias: bool = True, shifts: bool = True
    ) -> str:
        """One layer with matrices for queries, keys and values each; `shifts` are those of its norms. Its name."""
        layer, width = f"v.blk.{index}", self.width
        for letter in "qkv":
            self.linear(f"{layer}.attn_{letter}", width, width, bias=bias)
        self.linear(f"{layer}.attn_out", width, width, bias=bias)
        self._rest(layer, inner, gated=gated, bias=bias, shifts=shifts)
        return layer

    def fused_block(
        self, index: int, inner: int, *, gated: bool = False, bias: bool = True, shifts: bool = True
    ) -> str:
        """One layer with one matrix for queries, keys and values. Its name."""
        layer, width = f"v.blk.{index}", self.width
        self.linear(f"{layer}.attn_qkv", 3 * width, width, bias=bias)
        self.linear(f"{layer}.attn_out", width, width, bias=bias)
        self._rest(layer, inner, gated=gated, bias=bias, shifts=shifts)
        return layer

    def _rest(self, layer: str, inner: int, *, gated: bool, bias: bool, shifts: bool) -> None:
        for name in ("ffn_up", "ffn_gate")[: 1 + gated]:
            self.linear(f"{layer}.{name}", inner, self.width, bias=bias)
        self.linear(f"{layer}.ffn_down", self.width, inner, bias=bias)
        for name in ("ln1", "ln2"):
            self.norm(f"{layer}.{name}", self.width, bias=shifts)


def depth_of(vision: Config, default: int) -> int:
    """Layers of the tower."""
    return vision.integer("num_hidden_layers", "depth", default=default, most=_MOST_LAYERS)


def heads_of(vision: Config, width: int, default: int) -> int:
    """Heads of the tower, which share its width."""
    heads = vision.integer("num_attention_heads", "num_heads", default=default, most=10**4)
    if width % heads:
        raise ConfigError(
            f"{vision.where}hidden_size of {width:,} is no multiple of {heads:,} heads",
            hint="correct one of the two in the config.json",
        )
    return heads


def image_of(vision: Config, default: int) -> int:
    """Pixels a side of the pictures; of a pair of equal sides the first, as the converter takes it."""
    return _side(vision, "image_size", default)


def patch_of(vision: Config, default: int) -> int:
    """Pixels a side of a patch; as `image_of`."""
    return _side(vision, "patch_size", default)


def _side(vision: Config, key: str, default: int) -> int:
    sides = vision.raw(key)
    if not isinstance(sides, list | tuple):
        return vision.integer(key, default=default, most=LARGEST_IMAGE)
    return vision.replaced({key: sides[0] if sides else 0}).integer(key, most=LARGEST_IMAGE)
