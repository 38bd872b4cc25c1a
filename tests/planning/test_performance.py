"""A plan's speed: its bands, what binds, and which cards have none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import vram_planner as vp
from vram_planner.hardware_profiles import find_gpu
from vram_planner.planning import performance_constants
from vram_planner.planning.performance import Assumptions
from vram_planner.planning.performance_rates import kernel_class
from vram_planner.planning.performance_work import work_of

ENGINES = ("vllm", "sglang", "llama.cpp", "tensorrt-llm", "transformers")


def speed(**options: Any) -> Any:
    asked = {"model": "8b", "ctx": 4096, "concurrency": 16, "gpu": "A100-80GB", **options}
    found = vp.plan(**asked).performance
    assert found is not None
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_the_band_holds_the_best(engine: str) -> None:
    found = speed(engine=engine)

    for band in (found.ttft_s, found.tpot_s, found.output_tokens_per_s, found.per_user_tokens_per_s):
        assert 0 < band.low < band.best < band.high


def test_no_card_no_speed() -> None:
    assert vp.plan("8b", ctx=4096, concurrency=16, gpu="none").performance is None
    assert vp.plan("8b", ctx=4096, concurrency=1, gpu="custom:80GiB").performance is None
    assert vp.plan("70b", ctx=4096, concurrency=1, gpu="A100-80GB").performance is None


def test_the_json_has_the_promised_shape() -> None:
    told = vp.plan("8b", ctx=4096, concurrency=16, gpu="A100-80GB").to_dict()["performance"]

    assert json.loads(json.dumps(told)).keys() == {
        "ttft_s",
        "tpot_s",
        "output_tokens_per_s",
        "per_user_tokens_per_s",
        "bound_by",
    }
    assert told["tpot_s"].keys() == {"low", "best", "high"}


def test_weights_of_one_step_are_all_but_the_embedding() -> None:
    architecture = vp.load_architecture("8b")
    plan = vp.plan("8b", ctx=4096, concurrency=1, gpu="A100-80GB")
    assert plan.served is not None
    embedding = 2 * architecture.vocabulary * architecture.hidden

    assert plan.served.work().dense_bytes == architecture.weights_bytes() - embedding
    assert plan.served.work().cache_bytes(1000) == 1000 * 131_072


def test_a_mixture_reads_what_it_touches() -> None:
    architecture = vp.load_architecture("mixtral-8x7b")
    plan = vp.plan("mixtral-8x7b", ctx=4096, concurrency=1, gpu="2x H100", tp=2)
    assert plan.served is not None
    ask = plan.served.ask
    work = work_of(architecture, ask.precision, ask.layout, 2)

    assert sum(group.n_bytes for group in work.experts) == pytest.approx(32 * 8 * 3 * 14336 * 4096 * 2 / 2)
    assert work.expert_flops == pytest.approx(2 * 32 * 2 * 3 * 14336 * 4096 / 2)
    assert work.weight_bytes(1) < work.weight_bytes(8) < work.dense_bytes + work.experts[0].n_bytes


def test_a_faster_card_serves_faster() -> None:
    slow, fast = speed(gpu="A100-80GB"), speed(gpu="H200")

    assert fast.tpot_s.best < slow.tpot_s.best
    assert fast.ttft_s.best < slow.ttft_s.best


def test_int4_helps_one_user_and_not_a_hundred() -> None:
    """Weight-only int4 reads less and multiplies no faster."""

    def gain(concurrency: int) -> float:
        plain = speed(concurrency=concurrency, ctx=590, prompt_tokens=280)
        packed = speed(concurrency=concurrency, ctx=590, prompt_tokens=280, quant="awq")
        return float(packed.output_tokens_per_s.best / plain.output_tokens_per_s.best)

    assert gain(1) > 1.5
    assert gain(100) < 1.0


def test_fp8_helps_at_any_batch_where_the_card_multiplies_it() -> None:
    plain = speed(gpu="H100", concurrency=100, ctx=590)
    packed = speed(gpu="H100", concurrency=100, ctx=590, quant="fp8")

    assert packed.output_tokens_per_s.best > plain.output_tokens_per_s.best


def test_what_binds() -> None:
    assert speed(concurrency=1).bound_by == "memory bandwidth"
    assert speed(concurrency=4000).bound_by == "KV room"
    assert speed(concurrency=64, max_num_seqs=8).bound_by == "max_num_seqs"


def test_traffic_can_be_assumed() -> None:
    served = vp.plan("8b", ctx=4096, concurrency=16, gpu="A100-80GB").served
    assert served is not None
    plain = served.times()
    cached = served.times(Assumptions(prefix_hit=0.9))
    drafted = served.times(Assumptions(draft=3, acceptance=0.8))
    assert plain is not None
    assert cached is not None
    assert drafted is not None

    assert cached.ttft_s < plain.ttft_s
    assert drafted.tpot_s < plain.tpot_s


def test_layers_on_the_host_cost_more() -> None:
    options: dict[str, Any] = {"engine": "llama.cpp", "quant": "q4_k_m", "gpu": "RTX 4090", "concurrency": 1}

    assert speed(**options, ngl=16).tpot_s.best > 2 * speed(**options).tpot_s.best


def test_v0_leaves_its_graphs_beyond_8192_tokens() -> None:
    """vLLM 0.7.3 `_use_captured_graph`: max_seq_len_to_capture = 8192; 0.8 has no such bound."""

    def step(version: str, prompt: float, **assumed: Any) -> float:
        served = vp.plan(
            "Qwen/Qwen2.5-0.5B-Instruct", ctx=32768, concurrency=1, gpu="H100", engine_version=version
        ).served
        assert served is not None
        found = served.times(Assumptions(prompt=prompt, output=100, **assumed))
        assert found is not None
        return found.tpot_s

    assert step("0.7.3", 9000) > 1.2 * step("0.7.3", 8000)
    assert step("0.7.3", 9000, graphs=True) < 1.1 * step("0.7.3", 8000)
    assert step("0.10.0", 9000) < 1.1 * step("0.10.0", 8000)


def test_a_card_that_is_cut_down_comes_closer_to_its_peak() -> None:
    """An H20 asks 0.3 TFLOP/s of a watt and reached 0.96 of its nameplate, an H100 1.4 and 0.8."""

    def prefill(gpu: str) -> float:
        served = vp.plan("8b", ctx=32768, concurrency=1, gpu=gpu).served
        assert served is not None
        found = served.times(Assumptions(prompt=30_000, output=1))
        assert found is not None
        return found.prefill_s

    peaks = find_gpu("H100").gpu.tflops("bf16"), find_gpu("H20 141GB").gpu.tflops("bf16")
    assert peaks[0] is not None
    assert peaks[1] is not None
    assert prefill("H20 141GB") / prefill("H100") < 0.9 * peaks[0] / peaks[1]


def test_what_nobody_measured_has_the_wider_band() -> None:
    for engine in ENGINES:
        bands = performance_constants.load(engine)["bands"]
        for key in [key for key in bands if not key.endswith(", new")]:
            low, high = bands[key]
            assert bands[f"{key}, new"][0] <= low < 1 < high <= bands[f"{key}, new"][1]
    assert "hopper dense" in performance_constants.load("vllm")["settings"]
    assert performance_constants.spread(
        "vllm", "tpot", "dense", "apple dense"
    ) == performance_constants.chosen(
        performance_constants.load("vllm")["bands"], "tpot", "dense", known=False
    )


def test_kernels_of_formats() -> None:
    assert kernel_class("fp8-dynamic", "vllm") == "fp8"
    assert kernel_class("awq", "vllm") == "w4a16"
    assert kernel_class("bfloat16", "vllm") == "16bit"
    assert kernel_class("Q4_K_M", "llama.cpp") == "gguf"


@pytest.mark.parametrize("engine", ENGINES)
def test_constants_say_where_they_come_from(engine: str) -> None:
    document = performance_constants.load(engine)

    assert document["sources"]
    assert document["fit"]["rows"] > 100
    assert document["fit"]["in_sample"]


def test_generations() -> None:
    names = ("RTX 4090", "L40S", "H100", "M2 Ultra", "DGX Spark")

    assert [performance_constants.generation(find_gpu(name).gpu) for name in names] == [
        "ada",
        "ada-pro",
        "hopper",
        "apple",
        "blackwell-unified",
    ]


def test_no_numpy_is_needed() -> None:
    rooms = Path(performance_constants.__file__).parent.glob("performance*.py")

    assert not any("numpy" in path.read_text(encoding="utf-8") for path in rooms)


def test_weights_that_vllm_leaves_in_host_memory_come_over_the_bus_at_each_step() -> None:
    asked: dict[str, Any] = {"ctx": 4096, "concurrency": 1, "gpu": "RTX 4090"}
    here, there = (vp.plan("8b", **asked, cpu_offload=size).served for size in (None, "8GiB"))
    assert here is not None
    assert there is not None
    alone, fetched = here.times(), there.times()
    assert alone is not None
    assert fetched is not None
    gone = there.memory.settings["host_weights_bytes"]
    assert isinstance(gone, int)
    assert gone >= 8 << 30

    # PCIe 4.0 x16 in place of the card's own 1,008 GB/s.
    assert fetched.tpot_s - alone.tpot_s == pytest.approx(gone / 31.5e9 - gone / 1008e9, rel=0.05)


def test_with_the_cache_on_the_host_no_speed_is_named() -> None:
    plan = vp.plan(
        "8b", ctx=4096, concurrency=1, gpu="RTX 4090", engine="llama.cpp", quant="q4_k_m", kv_offload=False
    )

    assert plan.performance is None
    assert any("attention on the host" in line for line in plan.not_modelled)


@pytest.mark.parametrize(("engine", "layout"), [
    ("vllm", {"tp": 1, "dp": 4}), ("vllm", {"tp": 2, "dp": 2}), ("sglang", {"tp": 4, "dp": 2, "dp_attention": True}),
    ("tensorrt-llm", {"tp": 4, "dp_attention": True}), ("vllm", {"tp": 4}),
])  # fmt: skip
def test_all_users_together_have_all_tokens(engine: str, layout: dict[str, Any]) -> None:
    plan = vp.plan(
        "deepseek-ai/DeepSeek-V2-Lite", ctx=4096, concurrency=32, engine=engine, gpu="4x H100", **layout
    )
    assert plan.performance is not None
    total, each = plan.performance.output_tokens_per_s, plan.performance.per_user_tokens_per_s

    assert total.best == pytest.approx(32 * each.best, rel=0.01)
