"""llama.cpp's table: its parts in every cell, without the words; graphs that read the same are laid out once for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.engines.llama_cpp import parts_of, settle, shared_out
from vram_planner.engines.register import engine
from vram_planner.engines.tables import Row, sums_of, with_workload

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from vram_planner.engines.base import Ask
    from vram_planner.engines.tables import Axes


def alike(ask: Ask) -> Hashable:
    """As the engine has it."""
    return engine("llama.cpp").alike(ask)


def rows(ask: Ask, axes: Axes) -> list[Row]:
    """See `Table.rows`."""
    found: list[Row] = []
    for ctx in axes.ctx:
        for number in axes.concurrency:
            cell = with_workload(ask, axes.workload(ctx, number))
            setting = settle(cell)
            parts = parts_of(cell, setting)
            found.append(Row(sums_of(parts), _holds(*shared_out(parts, setting))))
    return found


def _holds(fixed: int, each: int) -> Callable[[int, int], float]:
    return lambda usable, _: max(0, usable - fixed) / each
