"""What a shadow, a live ramp or a server found, as evidence for the one recommendation of `planning.recommend`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from vram_planner.planning.recommend import Evidence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.validate.ramp import Ramp, Step
    from vram_planner.validate.shadow_asked import EngineShadow
    from vram_planner.validate.shadow_run import Shadowed


def evidence_of_shadow(found: Shadowed, usable_bytes: int) -> Evidence:
    """
    A shadow of some requests on so much memory: weights once, the rest in proportion.

    The plan's runtime part is taken off first, for a shadow has none.
    """
    weights = found.moments[0].by_category["weights"]
    runtime = sum(part.n_bytes for part in found.plan.parts if part.name == "runtime")
    batch = int(found.request["concurrency"])
    each = max(1, (found.peak.peak_bytes - weights) // batch)
    at_once = max(0, usable_bytes - weights - runtime) // each
    return Evidence(rung="shadow", engine=found.engine, ctx=int(found.request["ctx"]), at_once=at_once)


def evidence_of_answer(found: EngineShadow) -> Evidence | None:
    """
    What an engine's own code answered of a card: its own count of requests, else those that the room holds.

    The room is the plan's pool on that card, more or less by what the engine's weights are smaller or larger than
    planned; a request takes what the engine's cache takes for each of the asked. None without a card, and for a
    model without a cache.
    """
    plan, rows = found.plan, {row.name: row for row in found.rows}
    if plan.capacity is None:
        return None
    at_once = next((count.measured for count in found.counts if count.name == "max_concurrency"), None)
    if at_once is None:
        held = rows["kv_cache"].measured_bytes if "kv_cache" in rows else 0
        if not held:
            return None
        weights = rows["weights"]
        room = plan.capacity.kv_pool_bytes + weights.planned_bytes - weights.measured_bytes
        at_once = max(0, room) * int(plan.request["concurrency"]) / held
    return Evidence(
        rung="shadow", engine=found.engine, ctx=int(plan.request["ctx"]), at_once=math.floor(at_once)
    )


def evidence_of_ramp(ramp: Ramp, *, engine: str, ctx: int) -> Evidence:
    """A live ramp: what fitted, and how fast each batch was."""
    return Evidence(
        rung="live",
        engine=engine,
        ctx=ctx,
        at_once=ramp.largest_that_fits,
        steps=ramp.ran,
        ttft_s=ramp.limits.ttft_s,
        tpot_s=ramp.limits.tpot_s,
        at_least=not ramp.complete or ramp.largest_that_fits == ramp.limits.most,
    )


def evidence_of_server(
    metrics: Mapping[str, Any],
    *,
    engine: str,
    ctx: int,
    steps: tuple[Step, ...] = (),
    limits: tuple[float | None, float | None] = (None, None),
    at_least: bool = False,
) -> Evidence:
    """
    A running server: `kv_cache_tokens`, or its own `max_concurrency`, and what batches were timed.

    `limits` are the TTFT and TPOT to keep; `at_least` says that it was not driven to what its memory holds.
    """
    at_once = metrics.get("max_concurrency")
    if at_once is None and metrics.get("kv_cache_tokens") is not None:
        at_once = metrics["kv_cache_tokens"] / ctx
    return Evidence(
        rung="server",
        engine=engine,
        ctx=ctx,
        at_once=None if at_once is None else math.floor(at_once),
        steps=steps,
        ttft_s=limits[0],
        tpot_s=limits[1],
        at_least=at_least,
    )
