"""How one tensor lies in memory under one number format: elements, scales and padding, in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vram_planner.units import ceil_div

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

    `index_bytes` an input feature are added where the file keeps the order of activation (GPTQ's g_idx).
    Sources: AutoAWQ WQLinear_GEMM, AutoGPTQ QuantLinear (qweight, qzeros, scales, g_idx).
    """

    name: str
    bits: int
    group: int
    zero_point: bool = True
    index_bytes: int = 0

    def nbytes(self, weight: Weight) -> int:
        """Packed integers, scales, zero points, indices."""
        groups = ceil_div(weight.columns, self.group) * weight.rows * weight.stack
        n_bits = weight.elements * self.bits + groups * (16 + (self.bits if self.zero_point else 0))
        return ceil_div(n_bits, 8) + weight.stack * weight.columns * self.index_bytes


@dataclass(frozen=True, slots=True)
class Rate:
    """
    So many thousandths of a bit for each number on average: EXL2 and EXL3, where the matrices' widths differ.

    `column_bytes` and `row_bytes` are added for each input and each output of a matrix.
    """

    name: str
    thousandths: int
    column_bytes: int = 0
    row_bytes: int = 0

    def nbytes(self, weight: Weight) -> int:
        """Elements × bits, rounded up to bytes, and the vectors beside them."""
        vectors = weight.columns * self.column_bytes + weight.rows * self.row_bytes
        return ceil_div(weight.elements * self.thousandths, 8000) + weight.stack * vectors


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
NF4 = Blocks("nf4", 64, 36, across_rows=True)
NF4_DOUBLE = Blocks("nf4-double", 64 * 256, 256 * 33 + 4, across_rows=True)
# bitsandbytes LLM.int8: a byte each, and SCB, a float32 for each row. Source: bitsandbytes nn/modules.py, Int8Params.
BNB_INT8 = Tiles("bnb-int8", 1, 0)
# Of four numbers two are kept: 4 bits each, 2 bits where they stood, a 16-bit scale for each 128.
# Source: compressed-tensors Marlin24Compressor (weight_packed, meta, scale_packed): k/16 int16 of `meta` a row.
W4A16_24 = Blocks("w4a16-24", 128, 128 // 2 // 2 + 128 // 8 + 2)
# torchao. Four bits with a bfloat16 scale and zero for each group (Int4Tensor); a byte with a bfloat16 scale a row
# (Int8Tensor); FP8 with a float32 scale a row (Float8WeightOnlyConfig). Version 1's packing pads inputs to 1024.
TORCHAO_INT4 = Blocks("int4wo-128", 128, 64 + 4)
TORCHAO_INT8 = Tiles("int8wo", 1, 0, scale_bytes=2)
TORCHAO_FLOAT8 = Tiles("float8wo", 1, 0)
# HQQ: groups of 64 that run on across rows, a 16-bit scale and zero each; ten 3-bit numbers share an int32.
# Source: hqq/core/quantize.py, Quantizer.bit_to_packing; transformers HqqConfig (group_size 64).
HQQ_4 = Blocks("hqq-4bit", 64, 32 + 4, across_rows=True)
HQQ_3 = Blocks("hqq-3bit", 5 * 64, 5 * 64 // 10 * 4 + 5 * 4, across_rows=True)
HQQ_2 = Blocks("hqq-2bit", 64, 16 + 4, across_rows=True)
