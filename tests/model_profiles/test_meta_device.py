"""
Configs of every family against transformers' own module on the meta device: parameters and bytes, exactly.

Each line of meta_device/*.jsonl holds a `config` with the keys that matter, the `parameters` and `bytes` of the
module that the named version of transformers builds from it (`bytes` in `dtype`, float32 where it is not given,
null where they were not taken), and where it says so the `windows` that its cache gives the layers, null for none.
`zero_experts` are parameters that the module allocates for experts that are identities: no checkpoint holds them,
and we count none.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from vram_planner.architecture.model import Architecture
from vram_planner.architecture.precision import plain, walk
from vram_planner.architecture.weight import Role
from vram_planner.model_profiles.from_config import architecture_from_config

ROWS = [
    (f"{path.stem}-{number}-{row['model_type']}", row)
    for path in sorted((Path(__file__).parent / "meta_device").glob("*.jsonl"))
    for number, row in enumerate(map(json.loads, path.read_text("utf-8").splitlines()), 1)
]
EACH = pytest.mark.parametrize("row", [row for _, row in ROWS], ids=[name for name, _ in ROWS])


def parameter_bytes(model: Architecture, dtype: str) -> int:
    precision = plain(dtype)
    return sum(
        precision.weight_bytes(weight, place) * count
        for weight, place, count in walk(model, precision)
        if weight.role is not Role.BUFFER
    )


@EACH
def test_config_gives_the_parameters_and_bytes_of_transformers(row: dict[str, Any]) -> None:
    model = architecture_from_config({"model_type": row["model_type"], **row["config"]})

    spare = row.get("zero_experts", 0)
    assert model.parameters == row["parameters"] - spare
    if row.get("bytes") is not None:
        assert parameter_bytes(model, row.get("dtype", "float32")) == row["bytes"] - 4 * spare


@pytest.mark.parametrize(
    "row",
    [row for _, row in ROWS if "windows" in row],
    ids=[name for name, row in ROWS if "windows" in row],
)
def test_layers_slide_as_in_transformers(row: dict[str, Any]) -> None:
    model = architecture_from_config({"model_type": row["model_type"], **row["config"]})
    caches = (layer.mixer.cache for layer in model.layers)

    assert row["windows"] == [cache.window if cache else None for cache in caches]
