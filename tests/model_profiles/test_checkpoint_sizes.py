"""
Published sizes of checkpoints against our bytes, within a thousandth.

Each line of oracles/checkpoint_sizes.jsonl names a checkpoint, the catalogue model that it is made from, the format
(null: as the catalogue row stores it) and its `metadata.total_size`, or that in GiB rounded to two digits.

The sources list others that are left out, for they hold more or less than the module: sizes rounded to MiB or tens
of MB, sums over a repository with a second copy of the weights (gpt-oss), checkpoints with drafting layers
(DeepSeek-R1-0528 and V3.2, GLM-5.2, Nemotron 3 Super, Qwen3.5 and 3.6), Gemma 4 E2B and E4B with the projections
of layers that borrow their keys, and MLX's Qwen3-Next and DeepSeek-V3.2 in eight bits, which no format explains.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from vram_planner.architecture.precision import DTYPES, MLX_FORMATS, Precision, mlx, plain
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
    return plain(row["format"])


@pytest.mark.parametrize("row", ROWS, ids=[row["model"] for row in ROWS])
def test_weights_are_as_large_as_the_published_checkpoint(row: dict[str, Any]) -> None:
    n_bytes = resolve(row["base"], offline=True).architecture.weights_bytes(precision_of(row))

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
