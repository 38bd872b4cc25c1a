"""
How many at once: double the batch, stop where the fit of the last steps says that the next will not fit, then halve
the gap. What a step measures is passed in: this module knows no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_HEADROOM = 0.05


class Ended(StrEnum):
    """How one batch ended."""

    RAN = "ran"
    NO_ROOM = "out of memory"
    DIED = "the process died"
    HUNG = "the time limit was reached"
    FAILED = "requests failed"
    SKIPPED = "not tried: the fit says that it needs more than there is"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """
    One batch: how it ended and, where it ran, what it took.

    Over several cards `card_peak_bytes` is the peak of each, and `peak_bytes` that of the fullest.
    """

    batch: int
    ended: Ended
    peak_bytes: int | None = None
    reserved_bytes: int | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    note: str = ""
    counted_tokens_per_s: float | None = None
    card_peak_bytes: tuple[int, ...] = ()

    @property
    def tokens_per_s(self) -> float | None:
        """Generated tokens a second over the whole batch: as counted, else what its TPOT comes to."""
        if self.counted_tokens_per_s is not None:
            return self.counted_tokens_per_s
        return self.batch / self.tpot_s if self.tpot_s else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    What a batch must keep: memory with head-room, and the asked latencies.

    Over several cards `card_limit_bytes` has the limit of each, and each must be kept; `limit_bytes` is the least.
    """

    limit_bytes: int
    headroom: float = DEFAULT_HEADROOM
    most: int = 256
    ttft_s: float | None = None
    tpot_s: float | None = None
    card_limit_bytes: tuple[int, ...] = ()

    @property
    def usable_bytes(self) -> int:
        """The limit less the head-room."""
        return int(self.limit_bytes * (1 - self.headroom))

    @property
    def usable_by_card(self) -> tuple[int, ...]:
        """The limit of each card less the head-room; one figure where there is one card."""
        return tuple(
            int(limit * (1 - self.headroom)) for limit in self.card_limit_bytes or (self.limit_bytes,)
        )

    def fits(self, step: Step) -> bool:
        """Whether it ran within the memory of every card."""
        return step.ended is Ended.RAN and all(
            peak <= usable for peak, usable in zip(_peaks(step), self.usable_by_card, strict=True)
        )

    def quick(self, step: Step) -> bool:
        """Whether it kept the latencies."""
        return _within(step.ttft_s, self.ttft_s) and _within(step.tpot_s, self.tpot_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """
    Every step in the order it was run.

    `largest_that_fits` looks at memory alone, `largest` at the latencies too; 0 where not even one request does.
    `complete` is False where the ramp was cut short, so that a larger batch may do as well.
    """

    steps: tuple[Step, ...]
    limits: Limits
    complete: bool
    stopped: str

    @property
    def largest_that_fits(self) -> int:
        """The largest batch that ran within the memory."""
        return max((step.batch for step in self.steps if self.limits.fits(step)), default=0)

    @property
    def largest(self) -> int:
        """The largest batch that fits and keeps the latencies."""
        good = (step for step in self.steps if self.limits.fits(step) and self.limits.quick(step))
        return max((step.batch for step in good), default=0)

    @property
    def ran(self) -> tuple[Step, ...]:
        """The steps that ran, by batch."""
        return tuple(
            sorted((step for step in self.steps if step.ended is Ended.RAN), key=lambda step: step.batch)
        )


def climb(measure: Callable[[int], Step], limits: Limits) -> Ramp:
    """
    Double from 1, then bisect to the largest batch that fits and is quick enough.

    `measure` runs one batch and never raises for one that has no room. A batch that the straight line through the
    two largest steps puts above the usable memory is not run at all. Two dead or hung batches end the ramp.
    """
    steps: list[Step] = []
    low, high, batch = 0, limits.most + 1, 1
    deaths = 0
    while low < batch < high:
        step = _skipped(steps, batch, limits) or measure(batch)
        steps.append(step)
        if limits.fits(step) and limits.quick(step):
            low = batch
        else:
            high = batch
        deaths += step.ended in {Ended.DIED, Ended.HUNG}
        if deaths > 1:
            return _ramp(steps, limits, "two batches killed the process or hung", complete=False)
        batch = _next_batch(low, high, limits.most)
    stopped = "the most that was asked for" if low == limits.most else _why(steps, high, limits)
    return _ramp(steps, limits, stopped, complete=low < limits.most or limits.most == 1)


def expected_bytes(steps: tuple[Step, ...] | list[Step], batch: int) -> int | None:
    """What a batch will need by the straight line through the two largest that ran; None before there are two."""
    found = expected_by_card(steps, batch)
    return max(found) if found else None


def expected_by_card(steps: tuple[Step, ...] | list[Step], batch: int) -> tuple[int, ...]:
    """The same for each card, each by a line of its own; nothing before two batches ran."""
    ran = sorted(
        (step.batch, _peaks(step))
        for step in steps
        if step.ended is Ended.RAN and step.peak_bytes is not None
    )
    if len(ran) < 2:  # noqa: PLR2004  a line has two points
        return ()
    (first, lower), (second, upper) = ran[-2:]
    slopes = [
        max(0.0, (after - before) / (second - first)) for before, after in zip(lower, upper, strict=True)
    ]
    return tuple(int(after + slope * (batch - second)) for after, slope in zip(upper, slopes, strict=True))


def _skipped(steps: list[Step], batch: int, limits: Limits) -> Step | None:
    cards = zip(expected_by_card(steps, batch), limits.usable_by_card, strict=False)
    over = [(card, expected) for card, (expected, usable) in enumerate(cards) if expected > usable]
    if not over:
        return None
    card, expected = over[0]
    where = f" on card {card} of {len(limits.card_limit_bytes)}" if limits.card_limit_bytes else ""
    return Step(batch=batch, ended=Ended.SKIPPED, note=f"the fit expects {expected:,} B{where}")


def _peaks(step: Step) -> tuple[int, ...]:
    return step.card_peak_bytes or (step.peak_bytes or 0,)


def _next_batch(low: int, high: int, most: int) -> int:
    """Twice as many while nothing has failed, the middle of the gap after that; `low` again where it is closed."""
    if high > most:
        return min(max(1, 2 * low), most)
    return (low + high) // 2 if high - low > 1 else low


def _why(steps: list[Step], high: int, limits: Limits) -> str:
    failed = next(step for step in steps if step.batch == high)
    if failed.ended is not Ended.RAN:
        return f"{high}: {failed.ended.value}"
    if not limits.fits(failed):
        return f"{high}: more than the usable memory{_fullest(failed, limits)}"
    return f"{high}: slower than asked"


def _fullest(step: Step, limits: Limits) -> str:
    """Which of several cards ran out first."""
    if not limits.card_limit_bytes:
        return ""
    left = [usable - peak for peak, usable in zip(_peaks(step), limits.usable_by_card, strict=True)]
    return f" of card {left.index(min(left))} of {len(left)}"


def _ramp(steps: list[Step], limits: Limits, stopped: str, *, complete: bool) -> Ramp:
    return Ramp(steps=tuple(steps), limits=limits, complete=complete, stopped=stopped)


def _within(value: float | None, limit: float | None) -> bool:
    return value is None or limit is None or value <= limit
