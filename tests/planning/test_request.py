from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vram_planner.engines.base import Options
from vram_planner.errors import PlannerError, RequestError
from vram_planner.planning.estimate import estimate
from vram_planner.planning.request import PlanRequest

GOOD: dict[str, Any] = {"model": "7b", "ctx": 8192, "concurrency": 16}


def test_token_counts_may_be_text() -> None:
    request = PlanRequest.of(**{**GOOD, "ctx": "32K", "prompt_tokens": "1,024"})

    assert (request.ctx, request.prompt) == (32_768, 1024)


def test_half_of_the_context_is_the_prompt_unless_said() -> None:
    assert PlanRequest.of(**GOOD).prompt == 4096
    assert PlanRequest.of(**{**GOOD, "ctx": 1}).prompt == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ctx": 0}, "--ctx 0 is out of range"),
        ({"ctx": -1}, "--ctx -1 is out of range"),
        ({"concurrency": 10**9}, "--concurrency 1,000,000,000 is out of range"),
        ({"concurrency": True}, "no whole number"),
        ({"concurrency": 1.5}, "no whole number"),
        ({"tp": 0}, "--tp 0 is out of range"),
        ({"gpu_memory_utilization": 0.0}, "no share of a card"),
        ({"gpu_memory_utilization": float("nan")}, "no share of a card"),
        ({"gpu_memory_utilization": "0.9"}, "no share of a card"),
        ({"prompt_tokens": 9000}, "longer than the context"),
        ({"attn": "magic"}, "no attention"),
        ({"model": " "}, "--model needs a name"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError) as caught:
        PlanRequest.of(**{**GOOD, **options})

    assert words in str(caught.value)
    assert caught.value.hint


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(RequestError, match="consurrency") as caught:
        PlanRequest.of(model="7b", ctx=1, consurrency=1)

    assert "concurrency" in caught.value.hint


@pytest.mark.parametrize("missing", ["model", "ctx", "concurrency"])
def test_what_every_plan_needs(missing: str) -> None:
    with pytest.raises(RequestError, match=f"--{missing} is missing"):
        PlanRequest.of(**{name: value for name, value in GOOD.items() if name != missing})


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 1 << 40),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["7b", "vllm", "llama.cpp", "fp8", "q8_0", "RTX 4090", "2x H100", "sdpa", "32K"]),
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(PlanRequest.__dataclass_fields__)), VALUES, max_size=8))
def test_any_options_give_a_plan_or_a_planner_error(options: dict[str, Any]) -> None:
    try:
        plan = estimate(PlanRequest.of(**{**GOOD, **options}))
    except PlannerError:
        return
    assert plan.total_bytes == sum(part.n_bytes for part in plan.parts)


def test_every_option_of_an_engine_is_a_field_of_the_request() -> None:
    asked = {field.name for field in fields(PlanRequest)} | {"version"}

    assert {field.name for field in fields(Options)} <= asked
