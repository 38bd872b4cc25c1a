"""
SGLang's table: what is loaded, activations and graphs go by model and card, the pool and the table of requests by the cell.

All of it is asked of the functions that `Sglang.memory` itself asks, once for what does not change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.engines.layouts import check_layout, per_replica
from vram_planner.engines.register import engine
from vram_planner.engines.sglang import beside_parts, completed, defaults_of
from vram_planner.engines.sglang_cells import default_page
from vram_planner.engines.sglang_defaults import profile_of
from vram_planner.engines.sglang_free import context_of
from vram_planner.engines.sglang_parts import activation_part, graphs_part, runtime_bytes
from vram_planner.engines.sglang_pool import Pool, fullest, stage_ranks
from vram_planner.engines.sglang_sparse import chooses_by_card
from vram_planner.engines.tables import Row, Sums, sums_of, with_workload

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from vram_planner.engines.base import Ask
    from vram_planner.engines.tables import Axes


def alike(ask: Ask) -> Hashable:
    """Of the defaults that go by the card's size, chunk and graphs; the fraction bounds what is spent, and is none of it."""
    if ask.options.speculative is not None:
        return engine("sglang").alike(ask)
    defaults, page = defaults_of(ask), default_page(ask, profile_of(ask.options.version))
    return defaults.chunk, defaults.graph_batch, chooses_by_card(ask), page, context_of(ask)


def rows(ask: Ask, axes: Axes) -> list[Row]:
    """See `Table.rows`."""
    check_layout(ask)
    ask = completed(ask)
    ranks, defaults = stage_ranks(ask), defaults_of(ask)
    fixed = sums_of((*beside_parts(ask), activation_part(ask, defaults), graphs_part(defaults)))
    found: list[Row] = []
    for ctx in axes.ctx:
        rules: dict[tuple[int, int], Callable[[int, int], float]] = {}
        for number in axes.concurrency:
            cell = with_workload(ask, axes.workload(ctx, number))
            rank, batch = fullest(cell, ranks), per_replica(cell)
            pool, weights = rank.pool, rank.weights_bytes
            tokens, states = pool.need(ctx, batch)
            best, low, high, outside = runtime_bytes(cell)
            held = weights + tokens + states
            beyond = pool.cells.beyond(pool.cells.slots(ctx) * batch)
            spent = fixed.budgeted + weights + best - outside
            sums = Sums(
                fixed.best + held + best,
                fixed.low + held + low,
                fixed.high + held + high,
                spent + tokens + states - beyond,
                weights,
                tokens,
            )
            key = id(rank), spent
            if key not in rules:
                rules[key] = _holds(pool, spent, ctx)
            found.append(Row(sums, rules[key]))
    return found


def _holds(pool: Pool, spent: int, context: int) -> Callable[[int, int], float]:
    """Requests of a context in what the static budget leaves beside what is `spent` of it."""
    return lambda usable, _: pool.requests(max(0, usable - spent), context)
