"""
What an engine may say of a whole grid of workloads at once, so that a sweep need not ask for each cell's memory.

An engine's table is optional: a module with the two functions of `Table`, named in `register.TABLES`. It gives the sums of
`Engine.memory` without its words, by the same rules. A sweep compares the corners of each model and layout with the
engine's own answers, and asks the engine for every cell where they differ, or where there is no table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from vram_planner.engines.base import Ask, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from vram_planner.basis import Part
    from vram_planner.engines.base import Memory


class Axes(NamedTuple):
    """Contexts and concurrencies of a sweep, and the prompt of each context."""

    ctx: tuple[int, ...]
    concurrency: tuple[int, ...]
    prompts: dict[int, int]

    def workload(self, ctx: int, concurrency: int) -> Workload:
        """One cell's."""
        return Workload(context=ctx, concurrency=concurrency, prompt_tokens=self.prompts[ctx])


class Sums(NamedTuple):
    """Bytes of parts: the best, low and high ends of all together, what of them is budgeted, and of two parts alone."""

    best: int
    low: int
    high: int
    budgeted: int
    weights: int
    kv_cache: int

    def plus(self, other: Sums) -> Sums:
        """These and others."""
        return Sums(*(mine + its for mine, its in zip(self, other, strict=True)))


class Row(NamedTuple):
    """
    One workload: the sums of its parts, and `held(usable, total)`, the requests at once on a card.

    `usable` is `Engine.usable_bytes` there, `total` the whole card. Rows with one rule share one function, which is then
    asked once for all of them. So they do with `memory`, which is for speed: a memory with the settings, and the bytes a token
    and a request, of this workload. Without it the engine is asked for its own.
    """

    sums: Sums
    held: Callable[[int, int], float]
    memory: Callable[[], Memory] | None = None


class Table(Protocol):
    """The shape of an engine's table."""

    def alike(self, ask: Ask) -> Hashable:
        """A key: of asks that differ by their card alone, those with the same key have the same rows."""

    def rows(self, ask: Ask, axes: Axes) -> Sequence[Row] | None:
        """A row for each context and concurrency, the latter faster; None where the table's rules do not hold."""


def sums_of(parts: Iterable[Part]) -> Sums:
    """The sums of named parts."""
    best = low = high = budgeted = weights = kv_cache = 0
    for part in parts:
        best, low, high = best + part.n_bytes, low + part.low, high + part.high
        budgeted += part.budgeted_bytes
        if part.name == "weights":
            weights += part.n_bytes
        elif part.name == "kv_cache":
            kv_cache += part.n_bytes
    return Sums(best, low, high, budgeted, weights, kv_cache)


def with_workload(ask: Ask, workload: Workload) -> Ask:
    """As `replace`, which takes several times as long: this is done for every cell."""
    return Ask(
        architecture=ask.architecture,
        precision=ask.precision,
        workload=workload,
        layout=ask.layout,
        options=ask.options,
        device=ask.device,
        draft=ask.draft,
        projector=ask.projector,
        measured=ask.measured,
    )
