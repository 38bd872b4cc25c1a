"""
The tables of docs/reference/formats.md: every name that `--quant` takes, and what it makes of Llama-3.1-8B.

    python docs/formats.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import vram_planner as vp
from vram_planner.architecture.gguf import gguf_precision
from vram_planner.architecture.gguf_dynamic import DYNAMIC_2_TYPES, DYNAMIC_TYPES
from vram_planner.architecture.gguf_names import GGUF_FILE_TYPES
from vram_planner.architecture.precision import DTYPES, FORMATS, MLX_FORMATS, mlx, named_format, plain

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.precision import Precision

GIB = 1 << 30
BASE = DTYPES["bfloat16"]
MODEL = "meta-llama/Llama-3.1-8B"
DYNAMIC_MODEL = "deepseek-ai/DeepSeek-R1"
DYNAMIC_2_MODEL = "Qwen/Qwen3-30B-A3B"
GGUF_STORED = {
    "f32": "all in F32",
    "f16": "matrices in F16",
    "bf16": "matrices in BF16",
    "mxfp4_moe": "experts in MXFP4, other matrices in Q8_0",
}
STORED = {
    "fp8": "8-bit floats, a float32 scale for each matrix",
    "fp8-block": "8-bit floats, a float32 scale for each tile of 128 × 128 (DeepSeek-V3, Qwen's FP8)",
    "fp8-dynamic": "8-bit floats, a float32 scale for each row",
    "int8": "8-bit integers, a float32 scale for each row",
    "w8a8": "as int8 (compressed-tensors)",
    "w8a16": "8-bit integers, a 16-bit scale for each row (compressed-tensors)",
    "awq": "4-bit integers, a 16-bit scale and a 4-bit zero for each 128 inputs of a row",
    "gptq": "as awq, and an int32 for each input (`g_idx`, stored with and without act-order)",
    "gptq-8bit": "as gptq with 8 bits",
    "gptq-3bit": "as gptq with 3 bits",
    "int4": "as awq",
    "w4a16": "4-bit integers, a 16-bit scale for each 128, no zero (compressed-tensors)",
    "w4a16-24": "of each four numbers two, in 4 bits; 2 bits tell where each stood; a scale for each 128",
    "bnb-int8": "LLM.int8: 8-bit integers, a float32 scale for each row (bitsandbytes)",
    "nf4": "4 bits, a float32 scale for each 64 numbers, a table of codes for each matrix (bitsandbytes)",
    "nf4-double": "4 bits, an 8-bit scale for each 64, a float32 for each 256 of these (bitsandbytes, double quantisation)",
    "auto-round": "as awq (AutoRound, packed as auto_gptq or auto_awq)",
    "int4wo-128": "4-bit integers, bfloat16 scale and zero for each 128 (torchao); -32, -64, -256 too",
    "int8wo": "8-bit integers, a float32 scale and an 8-bit zero for each row (torchao)",
    "int8dq": "as int8wo, activations in 8 bits too (torchao)",
    "float8wo": "8-bit floats, a float32 scale for each row (torchao)",
    "float8dq": "8-bit floats, a float32 scale for each matrix, activations in 8 bits too (torchao)",
    "hqq-4bit": "4-bit integers, 16-bit scale and zero for each 64 (HQQ); 8, 6, 5 and 1 bit too, -g32, -g128, …",
    "hqq-3bit": "as hqq-4bit with 3 bits, ten numbers in an int32",
    "hqq-2bit": "as hqq-4bit with 2 bits",
    "nvfp4": "4-bit floats, an 8-bit scale for each 16, two float32 for each matrix",
    "mxfp8": "8-bit floats, an 8-bit exponent for each 32",
    "mxfp4": "experts only: 4-bit floats, an 8-bit exponent for each 32 (gpt-oss)",
    "gptq-g32": "a scale for each 32 inputs: `-g32`, `-g64`, …, `-channel` after awq, gptq, gptq-8bit, gptq-3bit, w4a16",
    "exl2-4.25": "4.25 bits on average, scales counted; head in 6 (`-h8`: in 8); any width from 2 to 8",
    "exl3-3.0": "3 bits on average, two 16-bit vectors for each matrix; head in 6; any width from 1 to 8",
}


def line(name: str, stored: str, model: Architecture, precision: Precision) -> str:
    """One row: name, what it stores, bits for each parameter, size."""
    n_bytes = model.weights_bytes(precision)
    return f"| `{name}` | {stored} | {n_bytes * 8 / model.parameters:.2f} | {n_bytes / GIB:.2f} |"


def head(title: str, model: str) -> list[str]:
    """The head of a table."""
    return [f"| {title} | stores | bits a parameter of {model} | GiB |", "|---|---|---:|---:|"]


def formats() -> list[str]:
    """Formats of safetensors checkpoints."""
    model = vp.load_architecture(MODEL)
    lines = [line(name, "every tensor", model, plain(name)) for name in DTYPES]
    for name in dict.fromkeys([*FORMATS, *STORED]):
        precision = named_format(name, BASE)
        if precision is None:
            raise KeyError(name)
        lines.append(line(name, STORED[name], model, precision))
    return [*head("`--quant`", "Llama-3.1-8B"), *lines]


def ggufs() -> list[str]:
    """GGUF file types, those that were made for one model, and Unsloth's of April 2025 and later with their bands."""
    model, dynamic = vp.load_architecture(MODEL), vp.load_architecture(DYNAMIC_MODEL)
    first = []
    for name in GGUF_FILE_TYPES:
        if name.lower() not in {*DYNAMIC_TYPES, *DYNAMIC_2_TYPES}:
            stored = GGUF_STORED.get(name.lower(), f"most in {GGUF_FILE_TYPES[name].upper()}")
            stored += ", embedding and head in Q8_0" * bool(gguf_precision(name).kept)
            first.append(line(name.lower(), stored, model, gguf_precision(name)))
    own = [name for name in GGUF_FILE_TYPES if name.lower() in DYNAMIC_TYPES]
    second = [
        line(name.lower(), f"experts in {GGUF_FILE_TYPES[name].upper()}", dynamic, gguf_precision(name))
        for name in own
    ]
    return [
        *head("GGUF", "Llama-3.1-8B"),
        *first,
        "",
        *head("GGUF", "DeepSeek-R1"),
        *second,
        "",
        "| Unsloth's Dynamic 2.0 | band | bits a parameter of Qwen3-30B-A3B | GiB |",
        "|---|---|---:|---:|",
        *(_dynamic_line(name) for name in DYNAMIC_2_TYPES),
    ]


def _dynamic_line(name: str) -> str:
    model, mix = vp.load_architecture(DYNAMIC_2_MODEL), gguf_precision(name)
    spread = mix.spread(model)
    band = f"−{1 - spread.least:.0%} to +{spread.most - 1:.0%}" if spread else ""
    return line(name, band, model, mix)


def others() -> list[str]:
    """Formats that are known and refused: no engine planned here loads them."""
    model = vp.load_architecture(MODEL)
    usual = "embedding and head too, 16-bit scale and shift for each group"
    stored = {
        "mlx-mxfp4": "embedding and head too, an 8-bit exponent for each 32",
        "mlx-mxfp4-q8": "experts as mlx-mxfp4, the rest as mlx-8bit",
    }
    rows = [line(name, stored.get(name, usual), model, mlx(name, BASE)) for name in MLX_FORMATS]
    return [*head("MLX", "Llama-3.1-8B"), *rows]


def table() -> str:
    """All tables, in Markdown."""
    return "\n".join([*formats(), "", *ggufs(), "", *others()])


if __name__ == "__main__":
    print(table())  # noqa: T201  a script
