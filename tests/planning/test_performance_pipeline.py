"""Chunks over the stages of a pipeline against the launches played through one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.planning.performance_pipeline import in_sequence


def played(chunks: int, stages: int, queue: int, kernels: int) -> float:
    """One thread launches kernels of one tick each in order; a stage's queue holds `queue` of them, itself among those that run."""
    ends = [[0] * stages for _ in range(chunks)]
    host = 0
    for chunk in range(chunks):
        for stage in range(stages):
            before = ends[chunk][stage - 1] if stage else 0
            busy = ends[chunk - 1][stage] if chunk else 0
            ready = max(before, busy, host)
            ends[chunk][stage] = ready + kernels
            # The last launch returns when all but `queue` kernels of the stage have run.
            behind = (chunk + 1) * kernels - queue
            if behind > 0:
                whole, rest = divmod(behind, kernels)
                began = ends[whole][stage] - kernels if rest else ends[whole - 1][stage]
                host = max(host, began + rest)
    return ends[-1][-1] / (chunks * stages * kernels)


@given(
    st.integers(1, 24),
    st.integers(1, 8),
    st.sampled_from([(1, 1), (3, 2), (2, 1), (12, 5), (3, 1), (7, 2), (4, 1)]),
)
def test_as_the_launches_played_through(chunks: int, stages: int, ratio: tuple[int, int]) -> None:
    kernels = 10 * ratio[1]

    assert in_sequence(chunks, stages, ratio[0] / ratio[1]) == pytest.approx(
        played(chunks, stages, 10 * ratio[0], kernels)
    )


@given(st.integers(1, 64), st.integers(1, 8))
def test_ends_of_the_scale(chunks: int, stages: int) -> None:
    """Nothing queued: one after the other. Queues that take the chunks of all stages: the ideal pipeline."""
    assert in_sequence(chunks, stages, 0.0) == pytest.approx(1.0)
    assert in_sequence(chunks, stages, float(stages)) == pytest.approx(
        (chunks + stages - 1) / (chunks * stages)
    )


def test_a_queue_just_too_short_costs_most_of_the_gain() -> None:
    """70B over four cards, 20 layers a stage: of eight chunks each waits for three stages, or every second one for four."""
    assert in_sequence(8, 4, 1 - 1e-9) == pytest.approx((7 * 3 + 4) / 32)
    assert in_sequence(8, 4, 1.2) == pytest.approx((3 * 3.8 + 1 + 4) / 32)
