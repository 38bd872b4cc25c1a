"""Which cards hold a workload, when none is named: every card with the smallest count that does, smallest first."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from vram_planner.architecture.parallel import Layout, why_not_tp
from vram_planner.engines.base import Device
from vram_planner.errors import PlannerError
from vram_planner.hardware_profiles import all_gpus
from vram_planner.planning.performance import Served
from vram_planner.planning.plan import Candidate, headroom, judge

if TYPE_CHECKING:
    from collections.abc import Hashable

    from vram_planner.engines.base import Ask, Engine, Memory
    from vram_planner.hardware_profiles import Gpu

_COUNTS = (1, 2, 4, 8)
_MOST_ROWS = 12
_ALIKE_ROWS = 2


class _Holding(NamedTuple):
    """A card that holds the workload, with the engine's answer there."""

    gpu: Gpu
    ask: Ask
    memory: Memory
    usable_bytes: int
    headroom_bytes: int

    @property
    def rank(self) -> tuple[int, int, bool]:
        """Least memory in all first, then fewer cards, then those with a known price."""
        count = self.ask.layout.gpus
        return self.gpu.total_bytes * count, count, self.gpu.hourly_price is None


class _Search:
    """One search; memory is asked once for cards that an engine treats alike."""

    def __init__(self, chosen: Engine, ask: Ask) -> None:
        self.engine = chosen
        self.ask = ask
        self._known: dict[tuple[int, Hashable], Memory | None] = {}

    def at(self, gpu: Gpu, device: Device, count: int) -> _Holding | None:
        """This card, `count` of them, if they hold the workload."""
        ask = replace(self.ask, layout=self._layout(count), device=device)
        memory = self._memory(ask, count)
        if memory is None:
            return None
        usable = self.engine.usable_bytes(ask)
        room = headroom(memory.parts, usable, device.total_bytes)
        if room < 0:
            return None
        return _Holding(gpu, ask, memory, usable, room)

    def candidate(self, found: _Holding) -> Candidate:
        """The row of a card that holds it."""
        ask, memory, price = found.ask, found.memory, found.gpu.hourly_price
        count, total_bytes = ask.layout.gpus, found.gpu.total_bytes
        capacity = self.engine.capacity(ask, memory)
        name, speed = self.engine.speed_of, None
        if name is not None:
            served = Served(engine=name, ask=ask, gpu=found.gpu, memory=memory, capacity=capacity)
            speed = served.performance()
        return Candidate(
            gpu=found.gpu.name,
            count=count,
            tp=ask.layout.tp,
            fits=True,
            verdict=judge(memory.parts, found.usable_bytes, total_bytes),
            total_bytes=sum(part.n_bytes for part in memory.parts),
            usable_bytes=found.usable_bytes,
            headroom_bytes=found.headroom_bytes,
            max_concurrency=capacity.max_concurrency,
            cost_per_hour=None if price is None else round(price.middle * count, 2),
            cost_source=None if price is None else price.label,
            per_user_tokens_per_s=None if speed is None else speed.per_user_tokens_per_s,
            ttft_s=None if speed is None else speed.ttft_s,
        )

    def _layout(self, count: int) -> Layout:
        asked = self.ask.layout
        if asked.gpus == count:
            return asked
        if not self.engine.splits_tensors:
            return Layout(pp=count)
        return Layout(tp=count, expert_parallel=asked.expert_parallel)

    def _memory(self, ask: Ask, count: int) -> Memory | None:
        key = (count, self.engine.alike(ask))
        if key not in self._known:
            try:
                self._known[key] = self.engine.memory(ask)
            except PlannerError:
                # A count that this model cannot be split by is no candidate.
                self._known[key] = None
        return self._known[key]


def find_candidates(chosen: Engine, ask: Ask, fixed_count: int | None) -> tuple[Candidate, ...]:
    """
    Up to twelve cards, each with the smallest count (1, 2, 4, 8, or the asked one) that holds the workload.

    Smallest total memory first, then fewer cards; of cards that are sold with the same memory at most two,
    those with a known price first. Left out: laptop chips and boards with unified memory, cards without the
    model's dtype, and vendors that the engine does not run on.
    """
    search = _Search(chosen, ask)
    dtype = "bfloat16" if ask.precision.element_bytes == 2 else "float32"  # noqa: PLR2004  bytes of a 16-bit number
    asked_counts = (fixed_count,) if fixed_count else _COUNTS
    counts = [count for count in asked_counts if _divides(chosen, ask, count)]
    found: list[_Holding] = []
    for gpu in all_gpus():
        if gpu.vendor not in chosen.vendors or gpu.supports(dtype) is False or _is_no_server(gpu):
            continue
        device = device_of(gpu)
        held = next((held for count in counts if (held := search.at(gpu, device, count)) is not None), None)
        if held is not None:
            found.append(held)
    return tuple(search.candidate(held) for held in _varied(sorted(found, key=lambda held: held.rank)))


def _varied(found: list[_Holding]) -> list[_Holding]:
    """The first rows, with at most two of one count and one nameplate memory."""
    kept: list[_Holding] = []
    seen: dict[tuple[int, int | None], int] = {}
    for held in sorted(found, key=lambda held: (held.ask.layout.gpus, held.gpu.hourly_price is None)):
        kind = (held.ask.layout.gpus, held.gpu.nameplate_bytes)
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= _ALIKE_ROWS:
            kept.append(held)
    return sorted(kept, key=lambda held: held.rank)[:_MOST_ROWS]


def _is_no_server(gpu: Gpu) -> bool:
    return gpu.unified_memory or "Laptop" in gpu.name


def _divides(chosen: Engine, ask: Ask, count: int) -> bool:
    if ask.layout.gpus == count or not chosen.splits_tensors:
        return True
    if ask.layout.attention_dp > 1:
        return False  # groups of attention are asked for with the number of ranks
    return why_not_tp(ask.architecture, count) is None


def device_of(gpu: Gpu) -> Device:
    """The numbers of a card that engines ask for."""
    major, _, minor = (gpu.compute_capability or "").partition(".")
    # AMD's and Apple's architectures have names, not numbers.
    capability = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
    return Device(
        name=gpu.name,
        total_bytes=gpu.total_bytes,
        nvml_bytes=None if gpu.slice_of else gpu.reported_bytes,
        compute_capability=capability,
        multiprocessors=gpu.multiprocessors,
    )
