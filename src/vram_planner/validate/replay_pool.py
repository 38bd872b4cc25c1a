"""
The pool that a vLLM record logs, and what this version makes of it: blocks, tokens, concurrency.

It tests pages, groups and rounding apart from the budget, and needs no card: what a block takes depends on none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vram_planner.planning.estimate import estimate
from vram_planner.units import GIB

if TYPE_CHECKING:
    from vram_planner.hardware_profiles import GpuChoice
    from vram_planner.planning.request import PlanRequest

_FROM_POOL = {"KV blocks": "num_gpu_blocks", "KV tokens": "kv_cache_tokens", "concurrency": "max_concurrency"}
SUFFIX = ", pool as logged"
# The log's two decimals leave half a hundredth of a GiB open: of a smaller pool that is more than 1 %.
_LEAST_GIB = 0.5


def logs_pool(row: dict[str, Any]) -> bool:
    """Whether a record says how large the pool is and what it came to, on every rank alike."""
    log = row["measured"]
    told = any(log.get(name) for name in _FROM_POOL.values())
    one_stage = (row.get("pp") or 1) == 1
    return bool(
        row["engine"] == "vllm" and one_stage and told and (log.get("available_kv_cache_gib") or 0) >= _LEAST_GIB
    )


def from_logged_pool(
    row: dict[str, Any], request: PlanRequest, card: GpuChoice
) -> dict[str, tuple[float, float]]:
    """
    Blocks, tokens and concurrency of a pool of the logged size, each with what was logged.

    Without a release, windows and states are left out: how layers with them are grouped changed between releases.
    """
    if not logs_pool(row):
        return {}
    pool = int(row["measured"]["available_kv_cache_gib"] * GIB)
    plan = estimate(replace(request, kv_cache_memory=pool), card)
    grouped = any(kind != "FullAttention" for kind in _kinds(plan.model.architecture))
    if plan.capacity is None or (grouped and request.engine_version is None):
        return {}
    ours = {
        "KV blocks": float(plan.capacity.num_blocks or 0),
        "KV tokens": float(plan.capacity.kv_cache_tokens),
        "concurrency": plan.capacity.max_concurrency,
    }
    logged = {name: row["measured"].get(field) for name, field in _FROM_POOL.items()}
    return {
        f"{name}{SUFFIX}": (ours[name], float(theirs)) for name, theirs in logged.items() if theirs and ours[name]
    }


def _kinds(architecture: Any) -> set[str]:
    return {type(layer.mixer).__name__ for layer, _ in architecture.groups}
