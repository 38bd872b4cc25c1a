"""TensorRT-LLM's table: no part but the cache and the slots of states goes by the workload, and nothing by the card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.engines.layouts import check_layout, per_replica
from vram_planner.engines.tables import Row, sums_of, with_workload
from vram_planner.engines.tensorrt_llm import (
    completed,
    fixed_parts,
    kv_part,
    need_of,
    pool_bytes,
    pool_of,
    state_parts,
)
from vram_planner.engines.tensorrt_llm_pools import batch_of, check_kinds

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from vram_planner.engines.base import Ask
    from vram_planner.engines.tables import Axes


def alike(ask: Ask) -> Hashable:  # noqa: ARG001  the shape of Table
    """All cards."""
    return None


def rows(ask: Ask, axes: Axes) -> list[Row]:
    """See `Table.rows`."""
    check_layout(ask)
    check_kinds(ask)
    ask = completed(ask)
    fixed = sums_of(fixed_parts(ask))
    found: list[Row] = []
    for ctx in axes.ctx:
        rules: dict[int | None, Callable[[int, int], float]] = {}
        for number in axes.concurrency:
            cell = with_workload(ask, axes.workload(ctx, number))
            cache = sums_of((kv_part(cell, need_of(cell)), *state_parts(cell)))
            batch = batch_of(cell)
            if batch not in rules:
                rules[batch] = _holds(cell, fixed.best, batch or per_replica(cell))
            found.append(Row(fixed.plus(cache), rules[batch]))
    return found


def _holds(ask: Ask, fixed: int, batch: int) -> Callable[[int, int], float]:
    pool, context = pool_of(ask, need_of(ask).bytes_per_token), ask.workload.context
    return lambda _, total: pool.at_once(pool_bytes(ask, total, fixed), context, batch)
