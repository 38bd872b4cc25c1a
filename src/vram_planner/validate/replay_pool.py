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
    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.planning.request import PlanRequest

_FROM_POOL = {"KV blocks": "num_gpu_blocks", "KV tokens": "kv_cache_tokens", "concurrency": "max_concurrency"}
SUFFIX = ", pool as logged"
# The log's two decimals leave half a hundredth of a GiB open: of a smaller pool that is more than 1 %.
_LEAST_GIB = 0.5


def logs_pool(row: dict[str, Any]) -> bool:
    """Whether a record says what a pool came to, or what one request takes: neither depends on the card."""
    return row["engine"] == "vllm" and (_pool_told(row) or _need(row) is not None)


def _pool_told(row: dict[str, Any]) -> bool:
    log = row["measured"]
    told = any(log.get(name) for name in _FROM_POOL.values())
    one_stage = (row.get("pp") or 1) == 1  # else another stage's pool decides
    return one_stage and told and (log.get("available_kv_cache_gib") or 0) >= _LEAST_GIB


def _context_told(row: dict[str, Any]) -> bool:
    return bool(row.get("max_model_len") or row["measured"].get("max_concurrency_len"))


def _need(row: dict[str, Any]) -> tuple[int, float] | None:
    """The length and the GiB of "To serve at least one request with the model's max seq len …"."""
    need = row["measured"].get("kv_gib_needed_for_len")
    one_stage = (row.get("pp") or 1) == 1
    return (int(need["len"]), float(need["gib"])) if need and one_stage and need.get("gib") else None


def from_logged_pool(
    row: dict[str, Any], request: PlanRequest, card: GpuChoice
) -> dict[str, tuple[float, float]]:
    """
    Blocks, tokens and concurrency of a pool of the logged size, and one request's need, each with what was logged.

    Without a release, windows and states are left out: how layers with them are grouped changed between releases.
    Without a context too: what their pool holds in tokens depends on it.
    """
    if not logs_pool(row):
        return {}
    pool = int((row["measured"].get("available_kv_cache_gib") or 1) * GIB)
    plan = estimate(replace(request, kv_cache_memory=pool), card)
    grouped = any(kind != "FullAttention" for kind in _kinds(plan.model.architecture))
    told = request.engine_version is not None and _context_told(row)
    if plan.capacity is None or (grouped and not told):
        return {}
    found = _of_pool(row, plan) if _pool_told(row) else {}
    need = _need(row)
    if need is not None:
        length, gib = need
        long = estimate(replace(request, ctx=length, kv_cache_memory=pool), card)
        held = sum(part.n_bytes for part in long.parts if part.name in ("kv_cache", "recurrent_state"))
        found["KV of one request"] = (held / GIB, gib)
    return found


def _of_pool(row: dict[str, Any], plan: MemoryPlan) -> dict[str, tuple[float, float]]:
    capacity, log = plan.capacity, row["measured"]
    if capacity is None:
        return {}
    ours = {
        "KV blocks": float(capacity.num_blocks or 0),
        "KV tokens": float(capacity.kv_cache_tokens),
        "concurrency": capacity.max_concurrency,
    }
    logged = {name: log.get(field) for name, field in _FROM_POOL.items()}
    return {
        f"{name}{SUFFIX}": (ours[name], float(theirs))
        for name, theirs in logged.items()
        if theirs and ours[name]
    }


def _kinds(architecture: Any) -> set[str]:
    return {type(layer.mixer).__name__ for layer, _ in architecture.groups}
