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
