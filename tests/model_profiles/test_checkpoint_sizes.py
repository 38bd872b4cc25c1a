"""
Published sizes of checkpoints against our bytes, within a thousandth.

Each line of oracles/checkpoint_sizes.jsonl names a checkpoint, the catalogue model that it is made from, the format
(null: as the catalogue row stores it) and its `metadata.total_size`, or that in GiB rounded to two digits. `with` names
what the checkpoint holds beside the module that an engine loads: the drafting layers, and with DeepSeek's one more
embedding and head.

Others in the sources are left out. Their sizes are rounded or in other units: many of mlx-community's are whole
numbers of GB or MB taken for GiB or MiB (378 GB of DeepSeek-V3.1 in four bits became 405,874,409,472 bytes), or three
digits (75.0 GB). Some are sums over a repository with a second copy of the weights (gpt-oss). Gemma 4 E2B and E4B hold
projections of layers that borrow their keys, which are not loaded; DeepSeek-V4 holds drafting layers that we do not
model. No format explains MLX's Qwen3-Next and Qwen3-Coder-Next beside their bfloat16, nor DeepSeek-V3.2 in eight bits.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from vram_planner.architecture.model import Architecture
from vram_planner.architecture.precision import (
    DTYPES,
    MLX_FORMATS,
    Place,
    Precision,
    mlx,
    named_format,
    plain,
)
from vram_planner.model_profiles.resolve import resolve

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "oracles" / "checkpoint_sizes.jsonl")
    .read_text("utf-8")
    .splitlines()
]
_THOUSANDTH = 1e-3
_HALF_A_DIGIT = 0.0051


def precision_of(row: dict[str, Any]) -> Precision | None:
    if row["format"] is None:
        return None
    if row["format"] in MLX_FORMATS:
        return mlx(row["format"], DTYPES["bfloat16"])
    if row["format"] in DTYPES:
        return plain(row["format"])
    return named_format(row["format"], DTYPES["bfloat16"])


def beside(row: dict[str, Any], model: Architecture, precision: Precision) -> int:
    """Bytes that the checkpoint holds and the module does not."""
    held = row.get("with", [])
    place = Place(model, None)
    n_bytes = 0
    if "drafts" in held:
        n_bytes += sum(precision.weight_bytes(weight, place) for weight in model.draft_layers)
    if "tables" in held:
        n_bytes += sum(precision.weight_bytes(weight, place) for weight in (*model.embedding, *model.head))
    return n_bytes


@pytest.mark.parametrize("row", ROWS, ids=[row["model"] for row in ROWS])
def test_weights_are_as_large_as_the_published_checkpoint(row: dict[str, Any]) -> None:
    model = resolve(row["base"], offline=True).architecture
    precision = precision_of(row) or model.precision
    n_bytes = model.weights_bytes(precision) + beside(row, model, precision)

    if "total_size_bytes" in row:
        assert n_bytes == pytest.approx(row["total_size_bytes"], rel=_THOUSANDTH)
    else:
        assert n_bytes / 2**30 == pytest.approx(row["total_size_gib"], abs=_HALF_A_DIGIT, rel=_THOUSANDTH)


def test_mlx_is_met_to_the_byte_where_it_quantises_all_matrices() -> None:
    """Llama 70B: 4.5 and 8.5 bits for each of 70,552,387,584 matrix elements, 16 for 1,318,912 of norms."""
    exact = {row["model"]: row["total_size_bytes"] for row in ROWS if "Nemotron-70B" in row["model"]}
    model = resolve("nvidia/Llama-3.1-Nemotron-70B-Instruct-HF").architecture

    for bits in (4, 8):
        n_bytes = model.weights_bytes(mlx(f"mlx-{bits}bit", DTYPES["bfloat16"]))
        assert n_bytes == exact[f"mlx-community/Llama-3.1-Nemotron-70B-Instruct-HF-{bits}bit"]
