"""When it does not fit: what would make it fit, each tried out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vram_planner.engines.register import engine
from vram_planner.errors import PlannerError
from vram_planner.planning.estimate import estimate

if TYPE_CHECKING:
    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.planning.request import PlanRequest

_MOST_WAYS = 3
_MOST_GPUS = 16


@dataclass(frozen=True, slots=True)
class WayOut:
    """An option to change, and what the plan then says."""

    flags: str
    plan: MemoryPlan
    note: str = ""


def ways_out(request: PlanRequest, plan: MemoryPlan) -> tuple[WayOut, ...]:
    """Up to three changes of one option that make it fit: less context, fewer requests, precision, more cards."""
    found = []
    for flags, change in _changes(request, plan):
        tried = _try(replace(request, **change))
        if tried is not None and tried.fits:
            found.append(WayOut(flags, tried, _note(tried)))
        if len(found) == _MOST_WAYS:
            break
    return tuple(found)


def _changes(request: PlanRequest, plan: MemoryPlan) -> list[tuple[str, dict[str, Any]]]:
    changes: list[tuple[str, dict[str, Any]]] = []
    capacity, gpu = plan.capacity, plan.gpu
    if capacity is not None and capacity.max_concurrency >= 1:
        at_once = int(capacity.max_concurrency) * int(plan.request["dp"])
        changes.append((f"--concurrency {at_once}", {"concurrency": at_once}))
    if capacity is not None and capacity.max_context >= 1:
        shorter = {"ctx": capacity.max_context, "prompt_tokens": None}
        changes.append((f"--ctx {capacity.max_context}", shorter))
    if request.quant is None:
        name, _ = engine(plan.engine).smaller
        changes.append((f"--quant {name}", {"quant": name}))
    if gpu is not None and getattr(engine(plan.engine), "offloads", False) and not request.offload:
        changes.append(("--offload", {"offload": True}))
    if gpu is not None and request.tp is None and request.pp is None and request.dp is None:
        count = gpu.count * 2
        while count <= _MOST_GPUS:
            changes.append((f"--gpu-count {count}", {"gpu": gpu.name, "gpu_count": count}))
            count *= 2
    if request.kv_dtype == "auto":
        _, smaller = engine(plan.engine).smaller
        if smaller is not None:
            changes.append((f"--kv-dtype {smaller}", {"kv_dtype": smaller}))
    return changes


def _note(plan: MemoryPlan) -> str:
    """What the numbers do not say: layers that stay with the CPU."""
    count = plan.request.get("offloaded_layers")
    return f"{count} layers on the CPU (slow)" if count else ""


def _try(request: PlanRequest) -> MemoryPlan | None:
    try:
        return estimate(request)
    except PlannerError:
        return None  # this way is closed: the model cannot be split so, the engine lacks that type
