"""
transformers' table: the passes of each cell, which no card changes, and the largest batch of each card.

Of a card the runtime depends on its generation, and the largest batch on its size. Batches that one card's search has
asked for serve the others.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import TYPE_CHECKING

from vram_planner.engines.base import Ask, Device, Options, Workload
from vram_planner.engines.memo import once
from vram_planner.engines.register import engine
from vram_planner.engines.tables import Row, sums_of, with_workload
from vram_planner.engines.transformers import between, chosen_attention, largest_under, parts_of, per_process
from vram_planner.engines.transformers_cards import stacks_of
from vram_planner.engines.transformers_loading import as_loaded
from vram_planner.engines.transformers_parts import CardPlan, runtime_bytes
from vram_planner.engines.transformers_plan import best_plan, fullest_plan, most_requests, smallest_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.parallel import Layout
    from vram_planner.architecture.precision import Precision
    from vram_planner.engines.tables import Axes


_ENDLESS = 1 << 62  # more than any batch


def alike(ask: Ask) -> Hashable:
    """As the engine has it."""
    return engine("transformers").alike(ask)


class _Passes:
    """A model in a layout on no card yet: its plans and what other batches take, each worked out once."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.attn = chosen_attention(ask)
        self.stacks = stacks_of(ask)
        self._plans: dict[tuple[int, int, int], CardPlan] = {}
        self._live: dict[tuple[int, int, int], tuple[tuple[int, int], ...]] = {}

    def plan(self, work: Workload) -> CardPlan:
        """The plan of the fullest card."""
        key = work.context, work.concurrency, work.prompt_tokens
        if key not in self._plans:
            self._plans[key] = fullest_plan(self.stacks, work, self.ask, self.attn)
        return self._plans[key]

    def live(self, work: Workload) -> tuple[tuple[int, int], ...]:
        """Of each card the bytes of its weights, and of all that comes and goes."""
        key = work.context, work.concurrency, work.prompt_tokens
        if key not in self._live:
            plans = (best_plan(stack, work, self.ask, self.attn) for stack in self.stacks)
            self._live[key] = tuple((plan.stack.weights_bytes, plan.live_bytes) for plan in plans)
        return self._live[key]


class _Batches:
    """The largest batch of a context on cards of one generation; batches that were asked for bound the next search."""

    def __init__(self, passes: _Passes, work: Workload, device: Device | None) -> None:
        self._passes, self._work, self._device = passes, work, device
        self._smallest = smallest_requests(passes.stacks, work, passes.ask)
        self._known: dict[int, int] = {}
        self._costs: list[tuple[int, int]] = []  # cost and batch, by both, for neither falls with the other

    def cost(self, batch: int) -> int:
        """What a batch needs on the fullest card."""
        if batch not in self._known:
            work, attn = self._work, self._passes.attn
            asked = Workload(context=work.context, concurrency=batch, prompt_tokens=work.prompt_tokens)
            self._known[batch] = max(
                weights + live + runtime_bytes(self._device, live, attn)
                for weights, live in self._passes.live(asked)
            )
            insort(self._costs, (self._known[batch], batch))
        return self._known[batch]

    def held(self, usable: int, _: int) -> float:
        """The largest batch within what a card has."""
        place = bisect_right(self._costs, (usable, _ENDLESS))
        most = most_requests(self._smallest, usable)
        below, above = self._costs[:place][-1:], self._costs[place : place + 1]
        if below and above:
            (low_cost, low), (high_cost, high) = below[0], above[0]
            found = between(self.cost, usable, (low, low_cost), (high, high_cost))
        else:
            ceiling = min(most, above[0][1] - 1) if above else most
            known = (below[0][1], below[0][0]) if below else None
            found = largest_under(self.cost, usable, ceiling, known)
        return float(min(most, found))


@once
def _passes(architecture: Architecture, precision: Precision, options: Options, layout: Layout) -> _Passes:
    none = Workload(context=1, concurrency=1, prompt_tokens=1)
    ask = Ask(architecture=architecture, precision=precision, workload=none, layout=layout, options=options)
    return _Passes(as_loaded(ask))


def rows(ask: Ask, axes: Axes) -> list[Row] | None:
    """See `Table.rows`; None where layers are left to the CPU, which goes by the card's size."""
    if ask.options.offload:
        return None
    passes = _passes(ask.architecture, ask.precision, ask.options, ask.layout)
    loaded = as_loaded(ask)
    found: list[Row] = []
    for ctx in axes.ctx:
        held: Callable[[int, int], float] | None = None
        for number in axes.concurrency:
            cell = with_workload(loaded, axes.workload(ctx, number))
            work = per_process(cell)
            held = held or _Batches(passes, work, ask.device).held
            found.append(Row(sums_of(parts_of(passes.plan(work), work, cell)), held))
    return found
