from __future__ import annotations

import pytest

import vram_planner as vp
from vram_planner.errors import PlannerError


def test_each_side_is_what_its_plan_says() -> None:
    found = vp.compare(["qwen2.5-7b", "1.5b"], gpu="RTX 4090", ctx=8192, concurrency=4)

    for side, model in zip(found.sides, ("qwen2.5-7b", "1.5b"), strict=True):
        plan = vp.plan(model, gpu="RTX 4090", ctx=8192, concurrency=4)
        assert plan.capacity is not None
        assert plan.performance is not None
        assert side.ttft_s is not None
        assert side.at_once == plan.capacity.max_concurrency
        assert side.total_bytes == plan.total_bytes
        assert side.ttft_s.best == plan.performance.ttft_s.best


def test_changes_are_against_the_first() -> None:
    found = vp.compare(["qwen2.5-7b", "1.5b"], gpu="RTX 4090", ctx=8192)
    first, second = found.sides

    assert found.change(second, "at_once") == pytest.approx(second.at_once / first.at_once - 1)
    assert found.to_dict()["sides"][1]["change"]["cost_per_month"] == 0
    assert next(iter(found.to_rows()))["weights_bytes_change"] == 0
    assert second.cost_per_month_each is not None
    assert first.cost_per_month_each is not None
    assert second.cost_per_month_each < first.cost_per_month_each


def test_a_side_that_does_not_fit_has_no_speed() -> None:
    found = vp.compare(["32b"], quants=[None, "awq"], gpu="2x RTX 4090", ctx=16384)

    assert not found.fits
    assert found.sides[0].full_tokens_per_s is None
    assert found.sides[1].fits
    assert found.change(found.sides[1], "full_tokens_per_s") is None


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(PlannerError):
        vp.compare([], gpu="H100", ctx=8192)
    with pytest.raises(PlannerError):
        vp.compare(["7b"], gpu="H100", ctx=8192, quants=[])


def test_a_comparison_warns_of_no_command_for_it_shows_none() -> None:
    (side,) = vp.compare("7b", quants="awq", gpu="L4", ctx=4096).sides

    assert side.quant == "awq"
    assert not [text for text in side.warnings if "the command" in text]
