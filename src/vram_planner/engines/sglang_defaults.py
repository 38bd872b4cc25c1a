"""What SGLang sets by itself from the card's memory: chunked prefill, graph sizes, mem_fraction_static."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vram_planner.errors import RequestError
from vram_planner.units import MIB

Profile = dict[str, Any]

_DATA = Path(__file__).parent / "profiles" / "sglang.json"
_VERSION = re.compile(r"v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?:[.a-z+-]\S{0,40})?")
# Without a card SGLang takes these (`gpu_mem is None`).
_NO_CARD_CHUNK, _NO_CARD_GRAPHS = 4096, 160
_MANY_RANKS = 4  # tensor parallel size from which more graphs are captured
_LEAST_CHUNK = 2048
_LARGE_CARD_MIB, _LARGE_CARD_RESERVE_MIB = 60 * 1024, 10 * 1024
_MLA_PREFILL_GRAPHS_MIB, _MLA_LARGEST_PREFILL = 1536, 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """The options that follow from a card, a layout and a release."""

    chunk: int
    graph_batch: int
    fraction: float
    rule: str


def version_key(text: str) -> tuple[int, int, int]:
    """'0.4.7.post1' -> (0, 4, 7)."""
    match = _VERSION.fullmatch(text.strip())
    if match is None:
        raise RequestError(f"cannot read the engine version {text[:40]!r}", hint="write it as 0.5 or 0.5.23")
    return int(match[1]), int(match[2]), int(match[3] or 0)


@lru_cache(maxsize=1)
def _profiles() -> tuple[Profile, ...]:
    rows = json.loads(_DATA.read_text(encoding="utf-8"))["profiles"]
    return tuple(sorted(rows, key=lambda row: version_key(row["version"])))


@lru_cache(maxsize=32)
def profile_of(version: str | None) -> Profile:
    """The newest profile that is not newer than `version`; the newest of all for None."""
    rows = _profiles()
    if version is None:
        return rows[-1]
    wanted = version_key(version)
    older = [row for row in rows if version_key(row["version"]) <= wanted]
    if not older:
        raise RequestError(
            f"SGLang {version} is older than any release we know",
            hint=f"the oldest profile is SGLang {rows[0]['title']}",
        )
    return older[-1]


def _tier(profile: Profile, total_mib: float | None) -> dict[str, Any]:
    if total_mib is None:
        return {"chunk": _NO_CARD_CHUNK, "graphs": [_NO_CARD_GRAPHS, _NO_CARD_GRAPHS]}
    tiers: list[dict[str, Any]] = profile["tiers"]
    return next(tier for tier in tiers if tier["below"] is None or total_mib < tier["below"])


def prefill_graph_sizes(largest: int) -> int:
    """
    How many prefill graphs are captured: token counts up to `largest`.

    4 to 32 by 4, to 256 by 16, to 512 by 32, to 1024 by 64, to 4096 by 256, then by 512.
    Source: generate_prefill_cuda_graph_batch_sizes, arg_groups/cuda_graph_hook.py.
    """
    runs = (
        (4, 33, 4),
        (48, 257, 16),
        (288, 513, 32),
        (576, 1025, 64),
        (1280, 4097, 256),
        (4608, largest + 1, 512),
    )
    return sum(len(range(start, min(stop, largest + 1), step)) for start, stop, step in runs)


def _reserved_mib(profile: Profile, chunk: int, graphs: int, ranks: int, *, mla: bool) -> float:
    """
    Reserve = 512 + 1.5 · max(chunk, 2048) + 1024 · ranks / 8 + 2 · graphs [+ prefill graphs], in MiB.

    Prefill graphs, captured by default in 0.5.23: 8 MiB each, or 1.5 GiB with MLA.
    Source: handle_gpu_memory_settings and reserve_for_graph_mb, arg_groups/memory_hook.py.
    """
    reserved = 512 + 1.5 * max(chunk, _LEAST_CHUNK) + ranks / 8 * 1024 + 2 * graphs
    if profile["prefill_graphs"]:
        reserved += _MLA_PREFILL_GRAPHS_MIB if mla else 8 * prefill_graph_sizes(chunk)
    return reserved


@lru_cache(maxsize=256)
def defaults_for(
    version: str | None,
    total_bytes: int | None,
    *,
    tp: int,
    pp: int,
    chunk: int | None,
    running: int | None,
    mla: bool,
) -> Defaults:
    """What SGLang of that release sets on a card of `total_bytes`, given what the user set (`chunk`, `running`)."""
    profile = profile_of(version)
    total_mib = None if total_bytes is None else total_bytes / MIB
    tier = _tier(profile, total_mib)
    chosen = chunk or int(tier["chunk"])
    graphs = int(tier["graphs"][tp >= _MANY_RANKS])
    if running is not None and profile["prefill_graphs"]:  # 0.5.23 captures no more than can run
        graphs = min(graphs, running)
    if profile["rule"] == "fixed":
        fraction = float(next(value for ranks, value in profile["fractions"] if tp >= ranks))
        return Defaults(
            chunk=chosen, graph_batch=graphs, fraction=fraction, rule=f"{fraction} at tensor parallel {tp}"
        )
    if total_mib is None:
        fallback = float(profile["fallback_fraction"])
        return Defaults(chunk=chosen, graph_batch=graphs, fraction=fallback, rule="no card is known")
    if profile["rule"] == "tiers":
        constant, each = tier["reserve_gib"]
        reserved = (constant + each * tp * pp) * 1024
    else:
        reserved = _reserved_mib(profile, chosen, graphs, tp * pp, mla=mla)
        if total_mib > _LARGE_CARD_MIB:
            reserved = max(reserved, _LARGE_CARD_RESERVE_MIB)
    fraction = round((total_mib - reserved) / total_mib, 3)
    return Defaults(
        chunk=chosen,
        graph_batch=graphs,
        fraction=fraction,
        rule=f"({total_mib:,.0f} − {reserved:,.0f}) / {total_mib:,.0f} MiB, the reserve of SGLang {profile['title']}",
    )
