from __future__ import annotations

import pytest

import vram_planner as vp
from vram_planner.errors import RequestError
from vram_planner.validate.ramp import Ended, Limits, Step, climb
from vram_planner.validate.recommend import (
    Evidence,
    evidence_of_plan,
    evidence_of_ramp,
    evidence_of_server,
    flags_for,
    recommend,
)


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
