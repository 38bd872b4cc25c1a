"""Which number format each tensor of a model has: the checkpoint's own, or a 'what if' asked for by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vram_planner.architecture import storage
from vram_planner.architecture.storage import Groups, Plain, Storage
from vram_planner.architecture.weight import Role, Weight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vram_planner.architecture.model import Architecture

DTYPES: dict[str, Plain] = {
    "bfloat16": storage.BFLOAT16,
    "float16": storage.FLOAT16,
    "float32": storage.FLOAT32,
}
DTYPE_ALIASES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp32": "float32",
    "float": "float32",
}


_TABLES = (Role.EMBEDDING, Role.HEAD)


class Place(NamedTuple):
    """Where a tensor stands: formats that mix types decide by this."""

    architecture: Architecture
    layer: int | None  # None: outside the layers


class Precision(Protocol):
    """A way to store a whole model."""

    @property
    def name(self) -> str:
        """As users and engines call it."""

    @property
    def by_layer(self) -> bool:
        """Whether a tensor's format depends on its layer's number."""

    @property
    def element_bytes(self) -> int:
        """Bytes of one number that is left unquantised: what activations and the cache use too."""

    def weight_bytes(self, weight: Weight, place: Place) -> int:
        """Bytes of one whole tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """
    One format for the matrices of the layers, one for the experts; the rest stays in `base`.

    Embedding, head, norms, biases and routers stay 16-bit, as vLLM, transformers and the published
    checkpoints keep them, and so do towers. `tables` is the format of embedding and head where a
    checkpoint quantises these too (MLX).
    """

    name: str
    base: Plain
    linear: Storage | None = None
    expert: Storage | None = None
    tables: Storage | None = None
    by_layer: bool = False

    @property
    def element_bytes(self) -> int:
        """Bytes of one unquantised number."""
        return self.base.element_bytes

    def weight_bytes(self, weight: Weight, place: Place) -> int:  # noqa: ARG002  the same in every layer
        """Bytes of one whole tensor; buffers are kept in float32, as DeepSeek's correction bias is."""
        if weight.role is Role.BUFFER:
            return storage.FLOAT32.nbytes(weight)
        if weight.role in _TABLES:
            return (self.tables or self.base).nbytes(weight)
        chosen = {Role.LINEAR: self.linear, Role.EXPERT: self.expert}.get(weight.role)
        return (chosen or self.base).nbytes(weight)

    def with_base(self, base: Plain) -> Uniform:
        """The same with another dtype for what is left unquantised."""
        name = base.name if self.name in DTYPES else self.name
        return replace(self, name=name, base=base)


@dataclass(frozen=True, slots=True, kw_only=True)
class Except:
    """
    `inner`, but for the tensors that a checkpoint leaves unquantised, or stores in yet another format.

    `names` are left so in every layer, `in_layers` holds (layer, name) where the layers differ. `mixed` holds
    formats with the tensors, (layer, name), that are stored in them; the layer is None outside the layers.
    """

    inner: Uniform
    names: frozenset[str] = frozenset()
    in_layers: frozenset[tuple[int, str]] = frozenset()
    mixed: tuple[tuple[Storage, frozenset[tuple[int | None, str]]], ...] = ()

    @property
    def name(self) -> str:
        """As the format inside."""
        return self.inner.name

    @property
    def by_layer(self) -> bool:
        """Whether layers differ."""
        return bool(self.in_layers or self.mixed)

    @property
    def element_bytes(self) -> int:
        """Bytes of one unquantised number."""
        return self.inner.element_bytes

    def weight_bytes(self, weight: Weight, place: Place) -> int:
        """Bytes of one whole tensor."""
        for stored, tensors in self.mixed:
            if (place.layer, weight.name) in tensors:
                return stored.nbytes(weight)
        if weight.name in self.names or (place.layer, weight.name) in self.in_layers:
            return self.inner.base.nbytes(weight)
        return self.inner.weight_bytes(weight, place)

    @property
    def base(self) -> Plain:
        """The dtype of what is left unquantised."""
        return self.inner.base

    def with_base(self, base: Plain) -> Except:
        """The same with another dtype for what is left unquantised."""
        return replace(self, inner=self.inner.with_base(base))


def plain(dtype: str) -> Uniform:
    """Every tensor in one dtype: 'bfloat16', 'float16' or 'float32'."""
    base = DTYPES[DTYPE_ALIASES.get(dtype, dtype)]
    return Uniform(name=base.name, base=base)


def quantised(name: str, base: Plain, linear: Storage | None, expert: Storage | None) -> Uniform:
    """Matrices and experts in the given formats, the rest in `base`."""
    return Uniform(name=name, base=base, linear=linear, expert=expert)


def _everywhere(stored: Storage) -> tuple[Storage, Storage]:
    return stored, stored


_GPTQ = Groups("gptq", 4, 128, index_bytes=4)
_AWQ = Groups("awq", 4, 128)
# What `--quant NAME` means, for matrices of the layers and for experts.
FORMATS: dict[str, tuple[Storage | None, Storage | None]] = {
    "fp8": _everywhere(storage.FP8_TENSOR),
    "fp8-block": _everywhere(storage.FP8_BLOCK),
    "fp8-dynamic": _everywhere(storage.FP8_CHANNEL),
    "int8": _everywhere(storage.INT8_CHANNEL),
    "w8a8": _everywhere(storage.INT8_CHANNEL),
    "awq": _everywhere(_AWQ),
    "gptq": _everywhere(_GPTQ),
    "int4": _everywhere(_AWQ),
    "w4a16": _everywhere(Groups("w4a16", 4, 128, zero_point=False)),
    "nf4": _everywhere(storage.NF4),
    "nvfp4": _everywhere(storage.NVFP4),
    "mxfp4": (None, storage.MXFP4),  # gpt-oss: experts only
}


# MLX quantises the tables too: groups of 64 with a 16-bit scale and a 16-bit shift each. Routers differ by family
# (none, 8 bits or the same), which comes to less than a thousandth: they are counted in 16 bits.
# No engine that is planned here loads it. Source: mlx.nn.quantize; mlx_lm/utils.py, quantize_model.
MLX_FORMATS: dict[str, Storage] = {
    **{
        f"mlx-{bits}bit": storage.Blocks(f"mlx-{bits}bit", 64, 64 * bits // 8 + 4) for bits in (3, 4, 5, 6, 8)
    },
    "mlx-8bit-gs32": storage.Blocks("mlx-8bit-gs32", 32, 36),
}


def mlx(name: str, base: Plain) -> Uniform:
    """A model as MLX stores it in one of MLX_FORMATS."""
    stored = MLX_FORMATS[name]
    return Uniform(name=name, base=base, linear=stored, expert=stored, tables=stored)


def walk(architecture: Architecture, precision: Precision) -> Iterator[tuple[Weight, Place, int]]:
    """
    Every tensor that is loaded, where it stands, and how many alike there are.

    Layers that are alike come once with their number, unless the format looks at each layer by itself.
    """
    outside = Place(architecture, None)
    for weight in (
        *architecture.embedding,
        *architecture.final_norm,
        *architecture.head,
        *architecture.towers,
    ):
        yield weight, outside, 1
    if precision.by_layer:
        for index, layer in enumerate(architecture.layers):
            for weight in layer.weights:
                yield weight, Place(architecture, index), 1
        return
    for layer, count in architecture.groups:
        for weight in layer.weights:
            yield weight, outside, count
