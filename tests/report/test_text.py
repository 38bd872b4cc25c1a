"""The table says what the plan holds: each figure in it is looked up in the plan, no wording of whole outputs (tests/golden)."""

from __future__ import annotations

import pytest

import vram_planner as vp
from vram_planner.report.text import plan_table
from vram_planner.units import format_gib

WIDTH = 100


def test_the_parts_add_up_to_what_the_last_row_of_the_table_says() -> None:
    plan = vp.plan("7b", ctx=8192, concurrency=16, gpu="L40S")
    text = plan_table(plan)

    for part in plan.parts:
        assert format_gib(part.n_bytes) in text
    assert f"needed       {format_gib(plan.total_bytes)}" in text
    assert plan.total_bytes == sum(part.n_bytes for part in plan.parts)


def test_data_parallel_figures_are_said_to_be_those_of_a_replica() -> None:
    alone = plan_table(vp.plan("7b", ctx=8000, concurrency=10, gpu="RTX 4090"))
    four = vp.plan("7b", ctx=8000, concurrency=40, gpu="4x RTX 4090", tp=1, dp=4)
    one = vp.plan("7b", ctx=8000, concurrency=10, gpu="RTX 4090")
    assert four.capacity is not None
    assert four.performance is not None
    assert one.performance is not None

    assert (
        f"{four.capacity.max_concurrency:.2f} requests of 8,000 tokens on each of 4 replicas"
        in plan_table(four)
    )
    # Speed is that of all together: the requests are dealt out over the four.
    assert four.performance.output_tokens_per_s.best == pytest.approx(
        4 * one.performance.output_tokens_per_s.best, rel=1e-6
    )
    assert "in all; first token" in plan_table(four)
    assert "in all; first token" in alone
    assert "replica" not in alone


def test_a_card_that_is_too_small_gets_the_shortage_and_the_error_of_the_engine() -> None:
    plan = vp.plan("8b", ctx=131072, concurrency=4, gpu="RTX 3090")
    assert plan.headroom_bytes is not None
    text = plan_table(plan)

    assert f"does not fit: {format_gib(-plan.headroom_bytes)} GiB short" in text
    assert "vLLM will not start:" in text
    assert "ValueError" in text


def test_without_a_card_there_are_candidates_instead_of_a_verdict() -> None:
    plan = vp.plan("7b", ctx=8192, concurrency=16)
    text = plan_table(plan)

    assert plan.gpu is None
    assert "fits:" not in text
    first = plan.candidates[0]
    assert f"{first.count} × {first.gpu}".replace("NVIDIA ", "").replace("GeForce ", "") in text.replace(
        "GeForce ", ""
    )


def test_lines_stay_within_a_hundred_columns_but_for_the_command_to_copy() -> None:
    for gpu in (None, "RTX 4090", "8x H100"):
        text = plan_table(vp.plan("671b", ctx=32768, concurrency=32, gpu=gpu))
        *lines, command = text.splitlines()

        assert command.startswith("next: ")
        assert max(map(len, lines)) <= WIDTH
