"""What SGLang sets by itself from the card's memory: chunked prefill, graph sizes, mem_fraction_static."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from vram_planner.errors import RequestError
from vram_planner.units import MIB

if TYPE_CHECKING:
    from vram_planner.architecture.model import Vision

Profile = dict[str, Any]

_DATA = Path(__file__).parent / "profiles" / "sglang.json"
_VERSION = re.compile(r"v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?:[.a-z+-]\S{0,40})?")
# Without a card SGLang takes these (`gpu_mem is None`).
_NO_CARD_CHUNK, _NO_CARD_GRAPHS = 4096, 160
_MANY_RANKS = 4  # tensor parallel size from which more graphs are captured
_LEAST_CHUNK = 2048
_LARGE_CARD_MIB, _LARGE_CARD_RESERVE_MIB = 60 * 1024, 10 * 1024
_MLA_PREFILL_GRAPHS_MIB = 1536
# Data parallel attention pads what is gathered: MiB a graph and group, and as much again by half for large graphs.
_GROUP_GRAPH_MIB, _LARGE_GROUP_GRAPH_MIB, _LARGE_GRAPHS = 3, 1.5, 300
_GROUPS_TIER_MIB = 4096
# Of the fraction of a model with a vision encoder: 0.95, less 0.1 for each encoder as large as ViT-L/14 beyond the first.
_VISION_SHARE, _VISION_SLOPE, _VISION_LEAST, _VISION_MOST = 0.95, 0.1, 0.8, 1.05
_VIT_LAYERS, _VIT_HIDDEN = 24, 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """
    What the defaults follow from beside the card: the ranks, what the user set (`chunk`, `running`), and the model.

    `vision` is None for models without an encoder; `drafting_gib` is what the release keeps back for speculation.
    """

    tp: int = 1
    pp: int = 1
    attention_dp: int = 1
    chunk: int | None = None
    running: int | None = None
    mla: bool = False
    model_type: str = ""
    vision: Vision | None = None
    drafting_gib: float = 0.0


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


def _captures_prefill(profile: Profile, setup: Setup) -> bool:
    """
    Whether prefill graphs are captured by default: not over pipeline stages, nor for vision and a few more models.

    Source: disable_breakable_cudagraph_if_incompatible and apply_cuda_graph_compatibility, arg_groups/cuda_graph_hook.py;
    up to 0.5.14 _handle_piecewise_cuda_graph of server_args.py, which excludes data parallel attention too.
    """
    rule = profile["prefill_graphs"]
    if rule is None or setup.pp > 1 or setup.model_type in rule["without"] or (setup.mla and not rule["mla"]):
        return False
    if runs_vision(setup.vision, profile) and setup.vision.family not in rule["vision"]:
        return False
    return bool(rule["attention_dp"]) or setup.attention_dp == 1


def _reserved_mib(profile: Profile, chunk: int, graphs: int, setup: Setup) -> float:
    """
    Reserve = 512 + 1.5 · max(chunk, 2048) + 1024 · ranks / 8 + 2 · graphs [+ groups · graphs · 3] [+ prefill graphs], in MiB.

    `groups` of data parallel attention, 4.5 each above 300 graphs. Prefill graphs: 8 MiB each, or 1.5 GiB with MLA.
    Source: handle_gpu_memory_settings and reserve_for_graph_mb, arg_groups/memory_hook.py.
    """
    reserved = 512 + 1.5 * max(chunk, _LEAST_CHUNK) + setup.tp * setup.pp / 8 * 1024 + 2 * graphs
    if setup.attention_dp > 1:
        each = _GROUP_GRAPH_MIB + (_LARGE_GROUP_GRAPH_MIB if graphs > _LARGE_GRAPHS else 0)
        reserved += graphs * setup.attention_dp * each
    if _captures_prefill(profile, setup):
        reserved += _MLA_PREFILL_GRAPHS_MIB if setup.mla else 8 * prefill_graph_sizes(chunk)
    return reserved


def runs_vision(vision: Vision | None, profile: Profile) -> TypeGuard[Vision]:
    """Whether this release runs the encoder without being asked to: not Gemma 3's nor Llama 4's (--enable-multimodal)."""
    rule = profile["vision"]
    return vision is not None and rule is not None and vision.family not in rule["text_only"]


def vision_share(profile: Profile, vision: Vision | None) -> float:
    """
    What of the default fraction a model with a vision encoder gets: 0.95 · clamp(1 − 0.1 · (L·H² / (24·1024²) − 1), 0.8, 1.05).

    L, H  `num_hidden_layers` and `hidden_size` of the vision config as transformers has them (24 and 1024 without);
          from transformers 5 on, which SGLang 0.5.10 takes, L may also be called `depth`
    Source: adjust_mem_fraction_for_vlm, arg_groups/memory_hook.py (server_args.py before 0.5.19).
    """
    if not runs_vision(vision, profile):
        return 1.0
    n_layers = vision.layers or (vision.depth if profile["vision"]["depth"] else None) or _VIT_LAYERS
    times = n_layers * (vision.hidden or _VIT_HIDDEN) ** 2 / (_VIT_LAYERS * _VIT_HIDDEN**2)
    return _VISION_SHARE * max(_VISION_LEAST, min(_VISION_MOST, 1 - _VISION_SLOPE * (times - 1)))


@lru_cache(maxsize=256)
def defaults_for(version: str | None, total_bytes: int | None, setup: Setup) -> Defaults:
    """What SGLang of that release sets on a card of `total_bytes`; the chunk is that of one group of attention."""
    profile = profile_of(version)
    total_mib = None if total_bytes is None else total_bytes / MIB
    tier = _tier(profile, total_mib)
    chosen = setup.chunk or int(tier["chunk"])
    graphs = int(tier["graphs"][setup.tp >= _MANY_RANKS])
    if setup.running is not None and profile["graphs_to_running"]:
        graphs = min(graphs, setup.running)
    made = Defaults(chunk=max(1, chosen // setup.attention_dp), graph_batch=graphs, fraction=0.0, rule="")
    if profile["rule"] == "fixed":
        fraction = float(next(value for ranks, value in profile["fractions"] if setup.tp >= ranks))
        return replace(made, fraction=fraction, rule=f"{fraction} at tensor parallel {setup.tp}")
    share = vision_share(profile, setup.vision)
    if total_mib is None:
        return replace(made, fraction=float(profile["fallback_fraction"]) * share, rule="no card is known")
    if profile["rule"] == "tiers":
        constant, each = tier["reserve_gib"]
        reserved = (constant + each * setup.tp * setup.pp) * 1024
        reserved += _GROUPS_TIER_MIB * (setup.attention_dp > 1)
    else:
        reserved = _reserved_mib(profile, chosen, graphs, setup)
        if total_mib > _LARGE_CARD_MIB:
            reserved = max(reserved, _LARGE_CARD_RESERVE_MIB)
    reserved += setup.drafting_gib * 1024
    rule = f"({total_mib:,.0f} − {reserved:,.0f}) / {total_mib:,.0f} MiB, the reserve of SGLang {profile['title']}"
    if share != 1:
        rule += f", × {share:.3f} for the vision encoder"
    return replace(made, fraction=round((total_mib - reserved) / total_mib, 3) * share, rule=rule)
