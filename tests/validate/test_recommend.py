from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

import vram_planner as vp
from vram_planner.errors import RequestError
from vram_planner.planning.recommend import Evidence, evidence_of_plan, flags_for, recommend
from vram_planner.report.text import plan_table
from vram_planner.report.validation import asked_text
from vram_planner.validate.checked import Checked
from vram_planner.validate.ramp import Ended, Limits, Step, climb
from vram_planner.validate.recommend import evidence_of_ramp, evidence_of_server
from vram_planner.validate.shadow_asked import Count, EngineShadow


def ramp(limit: int, *, most: int = 64, tpot_s: float | None = None, flat_from: int = 10**6) -> Evidence:
    def measure(batch: int) -> Step:
        tpot = 0.01 if batch <= flat_from else 0.01 * batch / flat_from
        return Step(batch=batch, ended=Ended.RAN, peak_bytes=10 * batch, ttft_s=0.01 * batch, tpot_s=tpot)

    found = climb(measure, Limits(limit_bytes=limit, headroom=0.0, most=most, tpot_s=tpot_s))
    return evidence_of_ramp(found, engine="vllm", ctx=4096)


def test_memory_latency_and_throughput_each_bind() -> None:
    by_memory = recommend(ramp(130))
    by_latency = recommend(ramp(1000, tpot_s=0.02, flat_from=4))
    by_throughput = recommend(ramp(1000, most=32, flat_from=4))
    by_nothing = recommend(ramp(1000, most=8))

    assert (by_memory.concurrency, by_memory.bound_by) == (13, "memory")
    assert by_latency.concurrency <= 8
    assert (by_throughput.concurrency, by_throughput.bound_by) == (4, "throughput")
    assert (by_nothing.concurrency, by_nothing.bound_by) == (8, "ramp")
    assert by_memory.flags == "--max-model-len 4096 --max-num-seqs 13"


def test_a_latency_that_nothing_keeps_is_zero_and_says_so() -> None:
    found = recommend(ramp(1000, tpot_s=0.001))

    assert (found.concurrency, found.bound_by, found.flags) == (0, "latency", "")
    assert "TPOT within 0.001 s" in found.why


def test_a_plan_with_a_card_is_evidence() -> None:
    plan = vp.plan("7b", ctx=8192, concurrency=1, gpu="RTX 4090")
    found = recommend(evidence_of_plan(plan))

    assert plan.capacity is not None
    assert found.concurrency == int(plan.capacity.max_concurrency) > 0
    assert (found.rung, found.bound_by) == ("plan", "memory")


def test_a_plan_says_what_it_recommends_in_its_table_and_its_json() -> None:
    plan = vp.plan("7b", ctx=8192, concurrency=16, gpu="RTX 4090")
    found = plan.recommendation

    assert found is not None
    assert plan.capacity is not None
    assert found.concurrency == int(plan.capacity.max_concurrency)
    assert plan.to_dict()["recommendation"] == asdict(found)
    assert f"recommend  {found.concurrency} at once, bound by memory: {found.flags}" in plan_table(plan)
    without = vp.plan("7b", ctx=8192, concurrency=16, gpu="none")
    assert without.recommendation is None
    assert without.to_dict()["recommendation"] is None


def test_what_llama_cpp_cannot_number_is_not_recommended() -> None:
    """LLAMA_MAX_SEQ is 256."""
    found = recommend(Evidence(rung="plan", engine="llama.cpp", ctx=100, at_once=1000))

    assert (found.concurrency, found.bound_by) == (256, "engine")
    assert found.flags == "--parallel 256 --ctx-size 25600"


def answered(plan: Any, *, weights: int, cache: int, counts: tuple[Count, ...] = ()) -> EngineShadow:
    planned = {part.name: part.n_bytes for part in plan.parts}
    rows = [
        Checked(name=name, planned_bytes=planned[name], measured_bytes=size, how="")
        for name, size in (("weights", weights), ("kv_cache", cache))
    ]
    return EngineShadow(
        model="m", engine=plan.engine, versions={}, request=dict(plan.request), where="here", rows=tuple(rows),
        counts=counts, answer={}, notes=(), not_covered=(), tolerance=0.05, seconds=1.0, plan=plan,
    )  # fmt: skip


def test_an_engines_own_answer_is_evidence() -> None:
    """Its own count where it made one; else the room over what it lays out for a request."""
    plan = vp.plan("7b", ctx=8192, concurrency=4, gpu="RTX 4090", engine="llama.cpp", quant="q4_k_m")
    assert plan.capacity is not None
    weights, cache = (plan.part(name).n_bytes for name in ("weights", "kv_cache"))
    equal = answered(plan, weights=weights, cache=cache).recommendation
    twice = answered(plan, weights=weights, cache=2 * cache).recommendation
    larger = answered(plan, weights=weights + plan.capacity.kv_pool_bytes, cache=cache).recommendation
    counted = answered(
        plan, weights=weights, cache=cache,
        counts=(Count(name="max_concurrency", planned=9, measured=7.9),),
    )  # fmt: skip

    assert equal is not None
    assert equal.concurrency == plan.capacity.kv_pool_bytes * 4 // cache
    assert twice is not None
    assert twice.concurrency == equal.concurrency // 2
    assert larger is not None
    assert larger.concurrency == 0
    assert counted.recommendation is not None
    assert counted.recommendation.concurrency == 7
    assert counted.to_dict()["recommendation"]["rung"] == "shadow"
    assert "recommended: 7 at once" in asked_text(counted)
    without = vp.plan("7b", ctx=8192, concurrency=4, gpu="none")
    assert answered(without, weights=1, cache=1).recommendation is None
    assert answered(plan, weights=weights, cache=0).recommendation is None


def test_a_server_is_evidence() -> None:
    found = recommend(evidence_of_server({"kv_cache_tokens": 100_000}, engine="sglang", ctx=8192))

    assert (found.concurrency, found.flags) == (12, "--context-length 8192 --max-running-requests 12")


def test_knowing_nothing_is_refused() -> None:
    with pytest.raises(RequestError):
        recommend(evidence_of_plan(vp.plan("7b", ctx=8192, concurrency=1)))


def test_not_even_one_is_an_answer() -> None:
    found = recommend(Evidence(rung="plan", engine="vllm", ctx=10, at_once=0))

    assert (found.concurrency, found.why) == (0, "not even one request of 10 tokens fits")


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama.cpp", "tensorrt-llm", "transformers"])
def test_every_engine_has_its_own_words(engine: str) -> None:
    assert "12" in flags_for(engine, 12, 100)
