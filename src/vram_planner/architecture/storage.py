"""How one tensor lies in memory under one number format: elements, scales and padding, in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vram_planner.units import ceil_div, round_up

if TYPE_CHECKING:
    from vram_planner.architecture.weight import Weight


class Storage(Protocol):
    """A number format: shape in, bytes out."""

    @property
    def name(self) -> str:
        """As users call it."""

    def nbytes(self, weight: Weight) -> int:
        """Bytes of the whole tensor, its scales and zero points included."""


@dataclass(frozen=True, slots=True)
class Plain:
    """One number after the other."""

    name: str
    element_bytes: int

    def nbytes(self, weight: Weight) -> int:
        """Elements × bytes each."""
        return weight.elements * self.element_bytes


@dataclass(frozen=True, slots=True)
class Blocks:
    """
    Runs of `elements` numbers along a row, `block_bytes` each with their scales (GGUF types, MXFP4, NVFP4).

    Rows that are no multiple of a block are padded to one, unless blocks run on `across_rows`
    (bitsandbytes). `tensor_bytes` are paid once a matrix.
    """

    name: str
    elements: int
    block_bytes: int
    tensor_bytes: int = 0
    across_rows: bool = False

    def nbytes(self, weight: Weight) -> int:
        """Blocks in a row × rows × matrices × bytes of a block."""
        if self.across_rows:
            blocks = ceil_div(weight.columns * weight.rows, self.elements) * weight.stack
        else:
            blocks = ceil_div(weight.columns, self.elements) * weight.rows * weight.stack
        return blocks * self.block_bytes + weight.stack * self.tensor_bytes


@dataclass(frozen=True, slots=True)
class Tiles:
    """
    One-byte numbers with one scale for each tile of `rows` × `columns` (0: the whole extent).

    DeepSeek's FP8 has tiles of 128 × 128; per-channel formats have one scale a row; per-tensor ones
    a single scale.
    """

    name: str
    rows: int
    columns: int
    scale_bytes: int = 4

    def nbytes(self, weight: Weight) -> int:
        """One byte an element and the tiles' scales."""
        down = ceil_div(weight.rows, self.rows or weight.rows)
        across = ceil_div(weight.columns, self.columns or weight.columns)
        return weight.elements + weight.stack * down * across * self.scale_bytes


@dataclass(frozen=True, slots=True)
class Groups:
    """
    `bits`-wide integers with a 16-bit scale and a `bits`-wide zero point for each `group` inputs of a row.

    Both are packed into words of 32 bits, integers along the inputs and zero points along the outputs. `index_bytes`
    an input feature are added where the file keeps the order of activation (GPTQ's g_idx), `tensor_bytes` once a
    matrix (compressed-tensors' weight_shape).
    Sources: AutoAWQ WQLinear_GEMM; GPTQModel PackedGroupedQuantLinear (qweight, qzeros, scales, g_idx);
    compressed-tensors PackedQuantizationCompressor.
    """

    name: str
    bits: int
    group: int
    zero_point: bool = True
    index_bytes: int = 0
    tensor_bytes: int = 0

    def nbytes(self, weight: Weight) -> int:
        """Packed integers, scales, zero points, indices."""
        groups = ceil_div(weight.columns, self.group)
        one = ceil_div(weight.columns * self.bits, 32) * 4 * weight.rows + groups * weight.rows * 2
        if self.zero_point:
            one += groups * ceil_div(weight.rows * self.bits, 32) * 4
        return weight.stack * (one + weight.columns * self.index_bytes + self.tensor_bytes)


@dataclass(frozen=True, slots=True)
class Padded:
    """
    `bits`-wide integers with `scale_bytes` for scale and zero of each `group` inputs of a row, rows and inputs padded.

    torchao's int4: bfloat16 scale and zero; tensor cores want inputs in multiples of 1024 and rows in multiples of 8.
    Source: torchao Int4TilePackedTo4dTensor.from_hp, Int4Tensor, Int4PlainInt32Tensor.
    """

    name: str
    bits: int
    group: int
    scale_bytes: int
    row_multiple: int = 1
    column_multiple: int = 1

    def nbytes(self, weight: Weight) -> int:
        """Packed integers and their scales."""
        rows, columns = (
            round_up(weight.rows, self.row_multiple),
            round_up(weight.columns, self.column_multiple),
        )
        one = (
            ceil_div(rows * columns * self.bits, 8) + rows * ceil_div(columns, self.group) * self.scale_bytes
        )
        return weight.stack * one


@dataclass(frozen=True, slots=True)
class Hqq:
    """
    HQQ: `bits` in `group` numbers that run on across rows, with a scale and a zero of 16 bits each.

    The matrix is seen as (elements / group, group) along `axis` 1, as (group, elements / group) along 0, and packed
    down its first side: two, four or eight numbers a byte, ten 3-bit ones an int32, five and six bits a byte each.
    `group` 0 is one row (axis 1) or one column (axis 0).
    Source: hqq/core/quantize.py, Quantizer.quantize and bit_to_packing; hqq/core/bitpack.py, pack_3bit_32.
    """

    name: str
    bits: int
    group: int = 64
    axis: int = 1
    meta_bytes: int = 2

    def nbytes(self, weight: Weight) -> int:
        """W_q, scale and zero."""
        elements = weight.rows * weight.columns
        group = self.group or (weight.columns if self.axis else weight.rows)
        groups = ceil_div(elements, group)
        down, across = (groups, group) if self.axis else (group, groups)
        packed = ceil_div(down, 10) * 4 * across
        if self.bits != 3:  # noqa: PLR2004  the one width that is packed into int32
            # Rounded down, as HQQ does: only what it can pack whole is ever stored.
            packed = down // {8: 1, 6: 1, 5: 1, 4: 2, 2: 4, 1: 8}[self.bits] * across
        return weight.stack * (packed + 2 * groups * self.meta_bytes)


@dataclass(frozen=True, slots=True)
class Rate:
    """
    So many thousandths of a bit for each number on average: EXL2 and EXL3, where the matrices' widths differ.

    `column_bytes` and `row_bytes` are added for each input and each output of a matrix; both sides are padded to
    a `multiple` (EXL3: 128).
    """

    name: str
    thousandths: int
    column_bytes: int = 0
    row_bytes: int = 0
    multiple: int = 1

    def nbytes(self, weight: Weight) -> int:
        """Elements × bits, rounded up to bytes, and the vectors beside them."""
        rows, columns = round_up(weight.rows, self.multiple), round_up(weight.columns, self.multiple)
        vectors = columns * self.column_bytes + rows * self.row_bytes
        return ceil_div(weight.stack * rows * columns * self.thousandths, 8000) + weight.stack * vectors


FLOAT32 = Plain("float32", 4)
BFLOAT16 = Plain("bfloat16", 2)
FLOAT16 = Plain("float16", 2)
FP8_TENSOR = Tiles("fp8", 0, 0)
FP8_CHANNEL = Tiles("fp8-channel", 1, 0)
FP8_BLOCK = Tiles("fp8-block", 128, 128)
INT8_CHANNEL = Tiles("int8", 1, 0)
# OCP Microscaling: 32 four-bit numbers share one 8-bit exponent.
MXFP4 = Blocks("mxfp4", 32, 17)
# NVFP4: 16 four-bit numbers share an FP8 scale; two float32 scales a tensor.
NVFP4 = Blocks("nvfp4", 16, 9, tensor_bytes=8)
# bitsandbytes NF4: 64 numbers share a float32 scale; with double quantisation an 8-bit one, and 256 of
# these share a float32 (QLoRA, https://arxiv.org/abs/2305.14314, section 3).
# Each matrix keeps its table of 16 codes, and one of 256 for the scales of scales. Source: QuantState.as_dict.
NF4 = Blocks("nf4", 64, 36, tensor_bytes=64, across_rows=True)
NF4_DOUBLE = Blocks("nf4-double", 64 * 256, 256 * 33 + 4, tensor_bytes=64 + 1024, across_rows=True)
# bitsandbytes LLM.int8: a byte each, and SCB, a float32 for each row. Source: bitsandbytes nn/modules.py, Int8Params.
BNB_INT8 = Tiles("bnb-int8", 1, 0)
# Of four numbers two are kept: 4 bits each, 2 bits where they stood, a 16-bit scale for each 128.
# Source: compressed-tensors Marlin24Compressor (weight_packed, meta, scale_packed): k/16 int16 of `meta` a row.
W4A16_24 = Blocks("w4a16-24", 128, 128 // 2 // 2 + 128 // 8 + 2)
# torchao. Four bits with a bfloat16 scale and zero for each group; version 1, and 2 where asked, pad inputs to 1024
# and rows to 8 for the tensor cores (tinygemm). Eight bits with a float32 scale and an int8 zero a row (Int8Tensor,
# version 2); version 1 had the model's dtype, with an int64 zero where the activations stay 16-bit. FP8 with a float32
# scale a row. Seen: quantize_ of torchao 0.14.1 and 0.18.0 on a small Linear.
TORCHAO_INT4 = Padded("int4wo-128", 4, 128, 4)
TORCHAO_INT8 = Tiles("int8wo", 1, 0, scale_bytes=5)
TORCHAO_FLOAT8 = Tiles("float8wo", 1, 0)
MXFP8 = Tiles("mxfp8", 1, 32, scale_bytes=1)
HQQ_4, HQQ_3, HQQ_2 = (Hqq(f"hqq-{bits}bit", bits) for bits in (4, 3, 2))
