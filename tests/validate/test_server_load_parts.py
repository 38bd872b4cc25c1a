"""What a load is made of: its steps, its percentiles, its prompts and its range."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vram_planner.errors import RequestError
from vram_planner.planning.recommend import knee
from vram_planner.validate.ramp import Ended, Step
from vram_planner.validate.server_load import LoadAsk, _batches, _percentiles
from vram_planner.validate.server_prompt import Prompts


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 512))
def test_steps_double_up_to_the_most(most: int) -> None:
    found = _batches(most)

    assert (found[0], found[-1]) == (1, most)
    assert all(small < large <= 2 * small for small, large in pairwise(found))
    assert len(found) <= 10


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(0, 100), min_size=1))
def test_percentiles_are_of_the_values_and_in_order(values: list[float]) -> None:
    found = _percentiles(values)

    assert found is not None
    assert set(found) <= set(values)
    assert found[0] <= found[1] <= found[2] <= max(values)
    assert _percentiles([]) is None


def test_percentiles_by_nearest_rank() -> None:
    assert _percentiles([float(value) for value in range(1, 101)]) == (50, 90, 99)


def test_counted_throughput_goes_before_what_tpot_comes_to() -> None:
    steps = tuple(
        Step(batch=batch, ended=Ended.RAN, tpot_s=0.1, counted_tokens_per_s=rate)
        for batch, rate in ((1, 10.0), (2, 19.0), (4, 19.5))
    )

    assert knee(steps) == 2


def test_prompts_of_one_salt_are_the_same_and_of_two_are_not() -> None:
    one, other = Prompts(b"a"), Prompts(b"b")

    assert one.words(1, 200) == one.words(1, 200) != other.words(1, 200)
    assert one.words(1, 200).split()[:64] == one.words(1, 64).split()
    assert len(one.of_tokens(1, 10).split()) == 10


def test_a_load_has_a_range() -> None:
    with pytest.raises(RequestError, match="--load 1,000 is out of range"):
        LoadAsk(most=1000, prompt_tokens=1, output_tokens=1)
