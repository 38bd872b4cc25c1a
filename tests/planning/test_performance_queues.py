"""Waits computed by hand, and what a run of finite length sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.planning.performance_model import Load
from vram_planner.planning.performance_queues import in_flight, tokens_per_step, waiting_s


def _arriving(rate: float, requests: float | None) -> Load:
    return Load(prompt=100, output=100, concurrency=1, room=1e9, most=1e9, rate=rate, requests=requests)


def test_speculation_by_hand() -> None:
    assert tokens_per_step(0, 0.7) == pytest.approx(1)
    assert tokens_per_step(3, 0.5) == pytest.approx(1 + 0.5 + 0.25 + 0.125)
    assert tokens_per_step(3, 1.0) == 4


def test_nobody_waits_alone() -> None:
    assert waiting_s(0.5, 3.0, 1, 0.7) == pytest.approx(0)
    assert waiting_s(0.5, 0.0, 8, 1.0) == pytest.approx(3.5)


def test_endless_arrivals_follow_littles_law() -> None:
    assert in_flight(_arriving(5, None), 12.0) == 60


@given(stay=st.integers(1, 400), requests=st.integers(1, 400))
def test_a_finite_run_is_its_own_sum(stay: int, requests: int) -> None:
    # One arrival a second, each stays `stay` seconds: what each meets over its stay, second by second.
    there = [sum(1 for i in range(requests) if i <= t < i + stay) for t in range(requests + stay)]
    met = sum(n * n for n in there) / sum(there)

    assert in_flight(_arriving(1.0, requests), stay) == pytest.approx(met, abs=0.5)
