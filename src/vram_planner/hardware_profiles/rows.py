"""Reads the catalogue: plain JSON into frozen values, once, in a few milliseconds."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from vram_planner.errors import CatalogueError
from vram_planner.hardware_profiles.gpu import Gpu, Price

_CATALOGUE = Path(__file__).with_name("catalogue")
_LISTS = ("aliases", "device_names", "unsupported", "source", "verified_fields", "conflicts")
_TABLES = ("dense_tflops", "measured_gemm_tflops")


@cache
def all_gpus() -> tuple[Gpu, ...]:
    """Every product of the catalogue, in its order: NVIDIA by age and class, then the other vendors."""
    return tuple(gpu_from_row(row) for row in read_rows("gpus.jsonl"))


def read_rows(file_name: str) -> list[dict[str, Any]]:
    """The rows of one file of the catalogue."""
    text = (_CATALOGUE / file_name).read_text(encoding="utf-8")
    # One parse of a joined array takes half the time of a parse per line.
    rows: list[dict[str, Any]] = json.loads("[" + ",".join(text.splitlines()) + "]")
    return rows


def gpu_from_row(row: dict[str, Any]) -> Gpu:
    """One row as a value; a row without a source, or with a key that we do not know, does not load."""
    values = dict(row)
    if not values.get("source"):
        raise CatalogueError(
            f"the row {values.get('name')!r} names no source",
            hint="say in 'source' where its figures come from",
        )
    for key in _LISTS:
        if key in values:
            values[key] = tuple(values[key])
    for key in _TABLES:
        if key in values:
            values[key] = tuple(values[key].items())
    try:
        for key in ("prices", "purchases"):
            values[key] = tuple(Price(**price) for price in values.get(key, ()))
        return Gpu(**values)
    except TypeError as error:
        raise CatalogueError(
            f"the row {values.get('name')!r} does not load: {error}", hint="see docs/how-to/add-a-gpu.md"
        ) from error
