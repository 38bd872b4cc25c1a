from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from vram_planner.planning.recommend import knee
from vram_planner.validate.ramp import Ended, Limits, Step, climb, expected_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 1000


def machine(base: int, each: int, room: int, seen: list[int], slow_s: float = 0.001) -> Callable[[int], Step]:
    """A device where a batch takes base + each · n, dies of no room above `room`, and slows down with the batch."""

    def measure(batch: int) -> Step:
        seen.append(batch)
        need = base + each * batch
        if need > room:
            return Step(batch=batch, ended=Ended.NO_ROOM)
        return Step(
            batch=batch, ended=Ended.RAN, peak_bytes=need, ttft_s=slow_s * batch, tpot_s=slow_s * batch
        )

    return measure


@given(st.integers(0, 900), st.integers(1, 400), st.integers(1, 300))
def test_it_finds_the_largest_that_fits_and_never_runs_out(base: int, each: int, most: int) -> None:
    seen: list[int] = []
    limits = Limits(limit_bytes=LIMIT, headroom=0.05, most=most)
    ramp = climb(machine(base, each, LIMIT, seen), limits)

    assert ramp.largest_that_fits == max(0, min(most, (950 - base) // each))
    # Only the first two steps are blind: from then on the fit stops the ramp before there is no room.
    assert all(base + each * batch <= 950 for batch in seen[2:])
    assert len(seen) == len(set(seen)) <= 20


def test_a_latency_limit_is_bisected_too() -> None:
    limits = Limits(limit_bytes=10**6, headroom=0.0, most=100, tpot_s=0.0131)
    ramp = climb(machine(1, 1, 10**6, []), limits)

    assert (ramp.largest, ramp.largest_that_fits) == (13, 16)
    assert ramp.stopped == "14: slower than asked"


def test_no_room_where_the_fit_did_not_say_so_is_survived() -> None:
    def measure(batch: int) -> Step:
        if batch > 5:
            return Step(batch=batch, ended=Ended.NO_ROOM, note="out of memory")
        return Step(batch=batch, ended=Ended.RAN, peak_bytes=100)

    ramp = climb(measure, Limits(limit_bytes=LIMIT, most=64))

    assert ramp.largest_that_fits == 5
    assert [step.batch for step in ramp.steps] == [1, 2, 4, 8, 6, 5]
    assert ramp.stopped == "6: out of memory"


def test_two_deaths_end_the_ramp_and_keep_what_ran() -> None:
    def measure(batch: int) -> Step:
        return Step(batch=batch, ended=Ended.DIED if batch > 2 else Ended.RAN, peak_bytes=100)

    ramp = climb(measure, Limits(limit_bytes=LIMIT))

    assert (ramp.largest, ramp.complete) == (2, False)
    assert [step.batch for step in ramp.steps] == [1, 2, 4, 3]


def test_the_end_of_the_ramp_is_told() -> None:
    ramp = climb(machine(0, 1, LIMIT, []), Limits(limit_bytes=LIMIT, most=6))

    assert ([step.batch for step in ramp.steps], ramp.complete) == ([1, 2, 4, 6], False)
    assert ramp.stopped == "the most that was asked for"


def test_the_fit_is_the_line_through_the_two_largest() -> None:
    steps = [Step(batch=n, ended=Ended.RAN, peak_bytes=b) for n, b in ((1, 500), (2, 510), (4, 530))]

    assert expected_bytes(steps, 8) == 570
    assert expected_bytes(steps[:1], 8) is None


def test_the_knee_is_where_doubling_stops_paying() -> None:
    steps = tuple(
        Step(batch=n, ended=Ended.RAN, tpot_s=t) for n, t in ((1, 0.01), (2, 0.011), (4, 0.013), (8, 0.0255))
    )

    assert knee(steps) == 4
    assert knee(steps[:3]) is None
