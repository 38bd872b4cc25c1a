from __future__ import annotations

from typing import Any

import pytest

import vram_planner as vp
from vram_planner.hardware_profiles import find_gpu
from vram_planner.planning import chosen_gpu as module
from vram_planner.units import GIB

ENGINES = ["vllm", "sglang", "llama.cpp", "transformers"]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_answers_alike(engine: str) -> None:
    plan = vp.plan("8b", ctx=8192, concurrency=4, engine=engine, gpu="H100")

    assert plan.engine == engine
    assert plan.fits is True
    assert plan.headroom_bytes is not None
    assert plan.headroom_bytes > 0
    assert plan.capacity is not None
    assert plan.capacity.max_concurrency >= 4
    assert plan.capacity.max_context >= 8192
    assert plan.candidates == ()
    assert {"weights", "kv_cache", "runtime"} <= {part.name for part in plan.parts}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_larger_card_never_holds_less(engine: str) -> None:
    plans = [
        vp.plan("7b", ctx=8192, concurrency=4, engine=engine, gpu=f"custom:{gib}GiB") for gib in (24, 48, 60)
    ]
    at_once = [plan.capacity.max_concurrency for plan in plans if plan.capacity]
    contexts = [plan.capacity.max_context for plan in plans if plan.capacity]

    assert at_once == sorted(at_once)
    assert contexts == sorted(contexts)


def test_without_a_card_it_lists_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "driver_present", lambda: False)
    plan = vp.plan("7b", ctx=8192, concurrency=16)

    assert plan.fits is None
    assert plan.capacity is None
    assert plan.gpu is None
    assert plan.headroom_bytes is None
    assert len(plan.candidates) >= 6
    for candidate in plan.candidates:
        again = vp.plan("7b", ctx=8192, concurrency=16, gpu=candidate.gpu, gpu_count=candidate.count)
        assert again.fits
        assert again.capacity is not None
        assert again.capacity.max_concurrency == candidate.max_concurrency
    sizes = [find_gpu(row.gpu).gpu.total_bytes * row.count for row in plan.candidates]
    assert sizes == sorted(sizes)


def test_candidates_keep_to_the_asked_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "driver_present", lambda: False)
    plan = vp.plan("32b", ctx=8192, concurrency=4, tp=4)

    assert {candidate.count for candidate in plan.candidates} == {4}


@pytest.mark.parametrize(
    ("options", "layout"),
    [
        ({"gpu": "2x RTX 4090"}, (2, 1, 1)),
        ({"gpu": "RTX 4090", "gpu_count": 4}, (4, 1, 1)),
        ({"gpu": "RTX 4090", "tp": 2}, (2, 1, 1)),
        ({"gpu": "4x RTX 4090", "pp": 2}, (2, 2, 1)),
        ({"gpu": "4x RTX 4090", "dp": 2, "tp": 2}, (2, 1, 2)),
        ({"tp": 2, "pp": 2}, (2, 2, 1)),
        ({}, (1, 1, 1)),
    ],
)
def test_layouts_follow_from_what_was_said(options: dict[str, Any], layout: tuple[int, int, int]) -> None:
    request = vp.plan("7b", ctx=4096, concurrency=1, **options).request

    assert (request["tp"], request["pp"], request["dp"]) == layout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gpu": "3x RTX 4090"}, "does not divide the heads"),
        ({"gpu": "2x RTX 4090", "gpu_count": 4}, "say"),
        ({"gpu": "2x RTX 4090", "tp": 4}, "needs 4 GPUs, there are 2"),
        ({"gpu": "3x RTX 4090", "pp": 2}, "cannot be shared"),
        ({"dtype": "int4"}, "no dtype"),
        ({"quant": "q17"}, "no quantisation"),
        ({"engine": "vlllm"}, "no engine"),
        ({"gpu": "RTX 99"}, "no GPU"),
    ],
)
def test_combinations_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(vp.PlannerError) as caught:
        vp.plan("7b", ctx=4096, concurrency=1, **options)

    assert words in str(caught.value) + caught.value.hint


def test_a_context_above_the_models_own_is_warned_about() -> None:
    plan = vp.plan("7b", ctx=200_000, concurrency=1)

    assert any("131,072" in warning for warning in plan.warnings)


def test_capacity_stops_at_the_models_own_context() -> None:
    plan = vp.plan("7b", ctx=4096, concurrency=1, gpu="H200")

    assert plan.capacity is not None
    assert plan.capacity.max_context == 131_072


def test_dtypes_and_formats() -> None:
    def weights(**options: Any) -> int:
        return vp.plan("7b", ctx=4096, concurrency=1, **options).part("weights").n_bytes

    assert weights() == weights(dtype="half") == weights(quant="bf16")
    assert weights(dtype="float32") == 2 * weights()
    assert weights(quant="fp8") < 0.6 * weights()
    assert weights(quant="awq") < weights(quant="fp8") < weights()


def test_verdicts_over_the_band() -> None:
    sure = vp.plan("7b", ctx=8192, concurrency=16, gpu="H100")
    hopeless = vp.plan("70b", ctx=8192, concurrency=16, gpu="RTX 4090")
    needed = vp.plan("7b", ctx=8192, concurrency=16, gpu="custom:30GiB").total_bytes

    assert sure.verdict == "fits"
    assert (hopeless.verdict, hopeless.fits) == ("does not fit", False)
    assert hopeless.headroom_bytes is not None
    assert hopeless.headroom_bytes < -100 * GIB
    between = vp.plan(
        "7b", ctx=8192, concurrency=16, gpu=f"custom:{needed // 2**20 + 64}MiB", gpu_memory_utilization=1.0
    )
    assert between.verdict == "may fit"


def test_the_request_is_filled_in() -> None:
    filled = vp.plan("7b", ctx="32K", concurrency=2, gpu="RTX 4090").request

    assert filled["ctx"] == 32_768
    assert filled["prompt_tokens"] == 16_384
    assert filled["gpu"] == "NVIDIA GeForce RTX 4090"
    assert filled["gpu_memory_utilization"] == 0.92
    assert filled["max_num_batched_tokens"] == 2048
    assert filled["max_num_seqs"] == 256
    assert filled["block_size"] == 16


def test_an_unknown_part_is_refused_by_name() -> None:
    with pytest.raises(vp.PlannerError, match="no part 'kv'"):
        vp.plan("7b", ctx=4096, concurrency=1).part("kv")


def test_a_row_that_nobody_read_says_so() -> None:
    def told(model: str) -> list[str]:
        warnings = vp.plan(model, ctx=1024, concurrency=1).warnings
        return [line for line in warnings if "was not read" in line]

    assert told("01-ai/Yi-1.5-9B-Chat") == [
        "01-ai/Yi-1.5-9B-Chat's config.json was not read: its row is recalled"
    ]
    assert told("01-ai/Yi-1.5-34B-Chat") == [
        "01-ai/Yi-1.5-34B-Chat's config.json was not read: its row is the copy of a sibling's"
    ]
    assert told("Qwen/Qwen3-8B") == []
