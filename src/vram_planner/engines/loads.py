"""
Which number formats an engine loads: profiles/loads.json, each line with its source.

llama.cpp is not asked here: it reads GGUF files alone, and its own module refuses the rest.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vram_planner.engines.versions import parse_version
from vram_planner.errors import PrecisionError

if TYPE_CHECKING:
    from vram_planner.engines.base import Engine

_DATA: Final = Path(__file__).parent / "profiles" / "loads.json"
# Formats of one maker by what their names begin with.
_FAMILIES: Final = (
    ("exl2", "exl2"),
    ("exl3", "exl3"),
    ("hqq", "hqq"),
    ("auto-round", "auto-round"),
    ("nf4", "bitsandbytes"),
    ("bnb-", "bitsandbytes"),
    ("int4wo", "torchao"),
    ("int8wo", "torchao"),
    ("int8dq", "torchao"),
    ("float8", "torchao"),
    ("torchao", "torchao"),
)
_UNPACKED: Final = "-unpacked"


def family_of(name: str, container: str | None = None) -> str | None:
    """The maker of a format whose loading differs by engine; None for formats that all load, or judge themselves."""
    if container == "gguf":
        return "gguf"
    if name.endswith(_UNPACKED):
        return "torchao"
    return next((family for begin, family in _FAMILIES if name.startswith(begin)), None)


@lru_cache(maxsize=1)
def _rows() -> dict[str, list[dict[str, Any]]]:
    engines: dict[str, list[dict[str, Any]]] = json.loads(_DATA.read_text(encoding="utf-8"))["engines"]
    return engines


def loading_notes(
    chosen: Engine, name: str, version: str | None, family: str, *, n_bytes: int
) -> tuple[str, ...]:
    """
    Remarks on how the engine loads a format of that family.

    Raises PrecisionError with what to do instead where it does not load it. `version` None is the newest, `n_bytes`
    what the weights would take.
    """
    notes = []
    for row in _rows().get(chosen.name, ()):
        if family not in row["families"] or not _holds(row.get("since"), version):
            continue
        if not row["loads"]:
            raise PrecisionError(
                f"{chosen.title} does not load {name} ({n_bytes / 10**9:.2f} GB of weights): {row['source']}",
                hint=row["hint"],
            )
        notes.append(str(row["note"]))
    return tuple(notes)


def _holds(since: str | None, version: str | None) -> bool:
    if since is None or version is None:
        return True
    return parse_version(re.split(r"\+", version)[0]) >= parse_version(since)
