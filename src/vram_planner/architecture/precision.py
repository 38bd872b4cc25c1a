"""Which number format each tensor of a model has: the checkpoint's own, or a 'what if' asked for by name."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vram_planner.architecture import storage
from vram_planner.architecture.storage import Groups, Hqq, Plain, Storage
from vram_planner.architecture.weight import Role, Weight
from vram_planner.errors import PrecisionError

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
    checkpoint quantises these too (MLX), `head` that of the head alone (EXL2, EXL3).
    """

    name: str
    base: Plain
    linear: Storage | None = None
    expert: Storage | None = None
    tables: Storage | None = None
    head: Storage | None = None
    by_layer: bool = False

    @property
    def element_bytes(self) -> int:
        """Bytes of one unquantised number."""
        return self.base.element_bytes

    def weight_bytes(self, weight: Weight, place: Place) -> int:  # noqa: ARG002  the same in every layer
        """Bytes of one whole tensor; buffers are kept in float32, as DeepSeek's correction bias is."""
        if weight.role is Role.BUFFER:
            return storage.FLOAT32.nbytes(weight)
        if weight.role is Role.HEAD and self.head is not None:
            return self.head.nbytes(weight)
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
    "gptq-8bit": _everywhere(Groups("gptq-8bit", 8, 128, index_bytes=4)),
    "gptq-3bit": _everywhere(Groups("gptq-3bit", 3, 128, index_bytes=4)),
    "int4": _everywhere(_AWQ),
    "w4a16": _everywhere(Groups("w4a16", 4, 128, zero_point=False, tensor_bytes=16)),
    "w4a16-24": _everywhere(storage.W4A16_24),
    "w8a16": _everywhere(Groups("w8a16", 8, 1 << 40, zero_point=False, tensor_bytes=16)),
    "bnb-int8": _everywhere(storage.BNB_INT8),
    "nf4": _everywhere(storage.NF4),
    "nf4-double": _everywhere(storage.NF4_DOUBLE),
    "auto-round": _everywhere(Groups("auto-round", 4, 128)),
    "int4wo-128": _everywhere(storage.TORCHAO_INT4),
    "int8wo": _everywhere(storage.TORCHAO_INT8),
    "int8dq": _everywhere(storage.TORCHAO_INT8),
    "float8wo": _everywhere(storage.TORCHAO_FLOAT8),
    "float8dq": _everywhere(storage.FP8_TENSOR),
    "hqq-4bit": _everywhere(storage.HQQ_4),
    "hqq-3bit": _everywhere(storage.HQQ_3),
    "hqq-2bit": _everywhere(storage.HQQ_2),
    "nvfp4": _everywhere(storage.NVFP4),
    "mxfp8": _everywhere(storage.MXFP8),
    "mxfp4": (None, storage.MXFP4),  # gpt-oss: experts only
}


# Names that carry a size: `gptq-g32` (a scale for each 32 inputs), `awq-channel` (for each row), `exl2-4.25`,
# `exl3-3.0-h8` (head in eight bits, six unless said).
_SIZED = re.compile(r"(awq|gptq|gptq-8bit|gptq-3bit|w4a16|auto-round)-(?:g([1-9]\d{1,3})|channel)")
_HQQ = re.compile(r"hqq-([8654321])bit(?:-g([1-9]\d{1,3}))?")
_INT4WO = re.compile(r"int4wo-(32|64|128|256)")
_EXL = re.compile(r"(exl[23])-(\d(?:\.\d{1,3})?)(?:-h([2-8]))?")
_ROW = 1 << 40  # a group that no row is longer than
_HEAD_BITS = 6
_UNQUANTISED_HEAD = 16
_LEAST = {"exl2": 2, "exl3": 1}  # bits a number
_MOST_THOUSANDTHS = 8000
# Thousandths of a bit of EXL2's head by its nominal bits, scales counted. Source: exllamav2 qparams_headoptions.
_EXL2_HEADS = {2: 2725, 3: 3275, 4: 4425, 5: 5181, 6: 6331, 8: 8031}


def named_format(name: str, base: Plain) -> Uniform | None:
    """
    What `--quant NAME` means beside the dtypes and GGUF; None where no format is called so.

    Raises PrecisionError for a width that EXL2 or EXL3 does not have.
    """
    if name in FORMATS:
        return quantised(name, base, *FORMATS[name])
    stored = _sized(name)
    if stored is not None:
        return quantised(name, base, stored, stored)
    exl = _EXL.fullmatch(name)
    return (
        None
        if exl is None
        else exllama(name, base, exl[1], round(float(exl[2]) * 1000), int(exl[3] or _HEAD_BITS))
    )


def _sized(name: str) -> Storage | None:
    """A format whose name carries the size of its groups."""
    found = _SIZED.fullmatch(name)
    if found is not None:
        usual = FORMATS[found[1]][0]
        return replace(usual, name=name, group=int(found[2] or _ROW)) if isinstance(usual, Groups) else None
    if (found := _HQQ.fullmatch(name)) is not None:
        return Hqq(name, int(found[1]), int(found[2] or 64))
    found = _INT4WO.fullmatch(name)
    return None if found is None else replace(storage.TORCHAO_INT4, name=name, group=int(found[1]))


def exllama(name: str, base: Plain, method: str, thousandths: int, head: int) -> Uniform:
    """
    Matrices at the asked average, the head at bits of its own, embedding and router in 16 bits.

    EXL2's average counts scales and the order of inputs (QParams.total_bits); EXL3 pads both sides to 128 and adds two
    16-bit vectors to each matrix (suh, svh). A head of 16 bits is left as it is.
    Source: exllamav2 conversion/qparams.py; exllamav3 modules/linear.py (pad_to), modules/quant/exl3.py,
    conversion/allocation.py.
    """
    least = _LEAST[method]
    widths = (*_EXL2_HEADS, _UNQUANTISED_HEAD) if method == "exl2" else (*range(1, 9), _UNQUANTISED_HEAD)
    if not least * 1000 <= thousandths <= _MOST_THOUSANDTHS or head not in widths:
        raise PrecisionError(
            f"there is no {name}",
            hint=f"{method}-{least}.0 to {method}-8.0, head bits 2 to 6 or 8: {method}-4.25-h8",
        )
    if method == "exl2":
        linear = storage.Rate(name, thousandths)
        last = storage.Rate(name, _EXL2_HEADS.get(head, 0), column_bytes=4)
    else:
        linear = storage.Rate(name, thousandths, column_bytes=2, row_bytes=2, multiple=128)
        last = replace(linear, thousandths=head * 1000)
    quantised_head = None if head == _UNQUANTISED_HEAD else last
    return Uniform(name=name, base=base, linear=linear, expert=linear, head=quantised_head)


# MLX quantises the tables too: groups of 64 with a 16-bit scale and a 16-bit shift each. Routers differ by family
# (none, 8 bits or the same), which comes to less than a thousandth: they are counted in 16 bits.
# No engine that is planned here loads it. Source: mlx.nn.quantize; mlx_lm/utils.py, quantize_model.
MLX_FORMATS: dict[str, Storage] = {
    **{
        f"mlx-{bits}bit": storage.Blocks(f"mlx-{bits}bit", 64, 64 * bits // 8 + 4) for bits in (3, 4, 5, 6, 8)
    },
    "mlx-8bit-gs32": storage.Blocks("mlx-8bit-gs32", 32, 36),
    "mlx-mxfp4": storage.Blocks("mlx-mxfp4", 32, 17),
    "mlx-mxfp4-q8": storage.Blocks("mlx-mxfp4-q8", 32, 17),  # experts; the rest as mlx-8bit
}
_MLX_REST = {"mlx-mxfp4-q8": "mlx-8bit"}


def mlx(name: str, base: Plain) -> Uniform:
    """A model as MLX stores it in one of MLX_FORMATS."""
    expert, rest = MLX_FORMATS[name], MLX_FORMATS[_MLX_REST.get(name, name)]
    return Uniform(name=name, base=base, linear=rest, expert=expert, tables=rest)


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
