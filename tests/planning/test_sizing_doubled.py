"""What is said to break first is what breaks: each edge is found again, one request at a time, by plans of one replica."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import vram_planner as vp
from vram_planner.planning.performance import Assumptions

if TYPE_CHECKING:
    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.planning.sizing_option import Option

CASES: list[tuple[str, dict[str, Any]]] = [
    ("7b", {"users": 30, "ctx": 8192, "gpus": ["L4"]}),
    ("7b", {"users": 30, "ctx": 8192, "gpus": ["L40S"], "tpot_s": 0.035}),
    ("7b", {"users": 30, "ctx": 16384, "prompt_tokens": 12000, "output_tokens": 300, "gpus": ["L40S"], "ttft_s": 4.0}),
    ("7b", {"rate": 4.0, "ctx": 1024, "gpus": ["H100"], "max_num_seqs": 64}),
    ("32b", {"users": 20, "ctx": 8192, "quants": ["awq"], "gpus": ["RTX 4090"]}),
    ("70b", {"users": 50, "think_s": 20.0, "ctx": 16384, "prompt_tokens": 4000, "output_tokens": 500, "ttft_s": 2.0,
             "tpot_s": 0.05, "gpus": ["H100"]}),
    ("8b", {"rate": 2.0, "ctx": 4096, "gpus": ["A100"], "engine": "sglang", "tpot_s": 0.02}),
    ("14b", {"users": 40, "ctx": 8192, "gpus": ["MI300X"], "quants": ["fp8"], "tpot_s": 0.03}),
    ("8b", {"users": 16, "ctx": 4096, "gpus": ["H100"], "engine": "tensorrt-llm", "ttft_s": 0.5}),
    ("8b", {"users": 6, "ctx": 4096, "gpus": ["RTX 4090"], "engine": "llama.cpp", "quants": ["q4_k_m"], "tpot_s": 0.1}),
]  # fmt: skip
LIMITS = ("ttft_s", "tpot_s")
PLANNED = ("ctx", "engine", "prompt_tokens", "max_num_seqs")


def replica(model: str, asked: dict[str, Any], option: Option, concurrency: int) -> MemoryPlan:
    """One replica as the plain command plans it."""
    quant = (asked.get("quants") or [None])[0]
    options = {name: asked[name] for name in PLANNED if name in asked}
    return vp.plan(model, concurrency=concurrency, gpu=option.gpu, gpu_count=option.gpus // option.replicas, tp=option.tp,
                   pp=option.pp, quant=quant, calibration=False, **options)  # fmt: skip


def broken(model: str, asked: dict[str, Any], option: Option, concurrency: int) -> set[str]:
    """All that no longer holds with so many requests in flight on one replica."""
    plan = replica(model, asked, option, concurrency)
    assert plan.served is not None
    output = asked.get("output_tokens", asked["ctx"] - asked.get("prompt_tokens", asked["ctx"] // 2))
    times = plan.served.times(Assumptions(concurrency=concurrency, output=output))
    assert times is not None
    found = set() if plan.fits else {"KV room"}
    places = plan.request.get("max_num_seqs") or plan.request.get("max_batch_size")
    if isinstance(places, int) and concurrency > places:
        found.add("max_num_seqs")
    figures = {"ttft_s": times.ttft_s, "tpot_s": times.tpot_s}
    found |= {name[:4].upper() for name in LIMITS if asked.get(name) and figures[name] > asked[name]}
    return found


def edge(model: str, asked: dict[str, Any], option: Option) -> int:
    """The most in flight with nothing broken: upwards by doubling, then halved."""
    low, high = 0, 1
    while not broken(model, asked, option, high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if broken(model, asked, option, middle) else (middle, high)
    return low


@pytest.mark.parametrize(("model", "asked"), CASES)
def test_what_is_said_to_break_first_breaks_first(model: str, asked: dict[str, Any]) -> None:
    option = vp.size(model, **asked).options[0]
    most = edge(model, asked, option)
    at_edge = replica(model, asked, option, most)
    assert at_edge.served is not None
    output = asked.get("output_tokens", asked["ctx"] - asked.get("prompt_tokens", asked["ctx"] // 2))
    times = at_edge.served.times(Assumptions(concurrency=most, output=output))
    assert times is not None
    stay = times.ttft_s + (output - 1) * times.tpot_s
    carried = most / stay if "rate" in asked else most * (stay + asked.get("think_s", 0.0)) / stay

    assert option.breaks_first in broken(model, asked, option, most + 1)
    assert option.carries == pytest.approx(option.replicas * carried, rel=2e-3)


@pytest.mark.parametrize(("model", "asked"), CASES)
def test_twice_the_load_on_the_same_cards_does_what_was_said(model: str, asked: dict[str, Any]) -> None:
    name = "rate" if "rate" in asked else "users"
    for option in vp.size(model, **asked).options:
        again = vp.size(model, **{**asked, name: 2 * asked[name], "max_gpus": option.gpus})
        same = [
            each for each in again.options
            if (each.tp, each.pp, each.dp, each.replicas) == (option.tp, option.pp, option.dp, option.replicas)
        ]  # fmt: skip
        beside = [each for each in again.options if each.gpus <= option.gpus]

        assert option.survives_double is (option.load_headroom >= 1)
        if option.survives_double:
            assert same or beside  # another layout of as few cards may have taken its place
        else:
            assert not same
            if not again.options:
                (refused,) = again.nearest
                assert refused.why in ("max_gpus", "memory", "TTFT", "TPOT")
