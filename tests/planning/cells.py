"""A row of a sweep against the plan of the same options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import vram_planner as vp
from vram_planner.errors import PlannerError

if TYPE_CHECKING:
    from vram_planner.planning.plan import MemoryPlan

SPEEDS = ("ttft_s", "tpot_s", "output_tokens_per_s")
FIGURES = ("total_bytes", "kv_cache_bytes", "headroom_bytes", "max_concurrency", "verdict", "fits")


def equals_the_plan(
    row: dict[str, object],
    model: str,
    quant: str | None,
    gpu: str,
    cell: tuple[int, int],
    **options: Any,
) -> None:
    """Every figure and the verdict, or the refusal, of one cell."""
    ctx, concurrency = cell
    plan = _plan_or_reason(
        model, quant=quant, gpu=gpu, ctx=ctx, concurrency=concurrency, calibration=False, **options
    )
    if isinstance(plan, str):
        assert (row["verdict"], row["reason"]) == ("refused", plan)
        return
    assert plan.capacity is not None
    wanted = (
        plan.total_bytes, plan.part("kv_cache").n_bytes if row["kv_cache_bytes"] else 0, plan.headroom_bytes,
        plan.capacity.max_concurrency, plan.verdict, plan.fits,
    )  # fmt: skip
    assert tuple(row[name] for name in FIGURES) == wanted
    assert (row["ctx"], row["concurrency"], row["tp"], row["pp"]) == (
        ctx, concurrency, plan.request["tp"], plan.request["pp"],
    )  # fmt: skip
    assert row["weights_bytes"] == plan.part("weights").n_bytes
    if "ttft_s" in row:
        fast = plan.performance
        assert tuple(row[name] for name in SPEEDS) == (
            (None, None, None)
            if fast is None
            else (fast.ttft_s.best, fast.tpot_s.best, fast.output_tokens_per_s.best)
        )


def _plan_or_reason(model: str, **options: Any) -> MemoryPlan | str:
    try:
        return vp.plan(model, **options)
    except PlannerError as error:
        return str(error)
