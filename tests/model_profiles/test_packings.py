"""
Bytes of one matrix as each package itself packs it, against what we make of the config.json that it writes.

Each line of oracles/packings.jsonl names the package and its version, the settings, the matrix and the bytes of the
tensors that its own code made of it on a CPU: torchao's `quantize_` (tile_packed_to_4d with the shape function of its
CUDA kernel), HQQLinear, AutoAWQ's WQLinear_GEMM, AutoRound's QuantLinear with and without g_idx (the layout of GPTQ),
compressed-tensors' compressors, bitsandbytes' Linear4bit and Linear8bitLt. `host_bytes` are small JSON notes that
never reach the card, `activation_bytes` scales of activations. No tolerance.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from vram_planner.architecture.precision import Uniform
from vram_planner.architecture.weight import Role, Weight
from vram_planner.model_profiles.from_config import architecture_from_config

ROWS: list[dict[str, Any]] = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "oracles" / "packings.jsonl").read_text("utf-8").splitlines()
]
TINY = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "vocab_size": 1000,
    "torch_dtype": "bfloat16",
}
PACKED = ("w4a16", "w8a16", "w3a16")


def config_of(row: dict[str, Any]) -> dict[str, Any]:
    package = row["package"].split()[0]
    integers = {"bits": row.get("bits"), "group_size": row.get("group_size")}
    if package == "compressed-tensors":
        group = {
            "targets": ["Linear"],
            "weights": row["weights"],
            "input_activations": row["input_activations"],
        }
        form = "pack-quantized" if row["format"] in PACKED else "int-quantized"
        return {"quant_method": package, "format": form, "config_groups": {"group_0": group}}
    if package == "hqq":
        weights = {"nbits": row["nbits"], "group_size": row["group_size"], "axis": row["axis"]}
        quant_config = {"weight_quant_params": weights, "scale_quant_params": None, "zero_quant_params": None}
        return {"quant_method": "hqq", "quant_config": quant_config, "skip_modules": ["lm_head"]}
    if package == "torchao":
        return {"quant_method": "torchao", "quant_type": {"default": row["quant_type"]}}
    if package == "bitsandbytes":
        four = row["format"] == "nf4"
        double = {"bnb_4bit_use_double_quant": row.get("double", False)}
        return {"quant_method": package, "load_in_4bit": four, "load_in_8bit": not four, **double}
    if row["format"] == "auto-round":
        return {
            "quant_method": "auto-round",
            "packing_format": "auto_round:auto_gptq",
            "sym": True,
            **integers,
        }
    return {"quant_method": row["format"], **integers}


def test_the_table_has_every_package() -> None:
    packages = {row["package"].split()[0] for row in ROWS}

    assert packages == {"torchao", "hqq", "auto-round", "autoawq", "compressed-tensors", "bitsandbytes"}
    assert len(ROWS) > 200


@pytest.mark.parametrize(
    "row",
    ROWS,
    ids=[f"{number}-{row['package'].split()[0]}-{row['format']}" for number, row in enumerate(ROWS)],
)
def test_a_matrix_takes_what_the_package_packs_it_into(row: dict[str, Any]) -> None:
    precision = architecture_from_config(TINY | {"quantization_config": config_of(row)}).precision
    weight = Weight(name="w", shape=(row["out"], row["in"]), role=Role.LINEAR)

    assert isinstance(precision, Uniform)
    assert precision.linear is not None
    stored = row["bytes"] - row.get("host_bytes", 0) - row.get("activation_bytes", 0)
    assert precision.linear.nbytes(weight) == stored
