"""Data parallel attention of SGLang and TensorRT-LLM, expert parallelism inside a replica, and SGLang's reserves for them."""

from __future__ import annotations

from typing import Any

import pytest

import vram_planner as vp
from vram_planner.architecture.feed_forward import OTHER_EXPERTS
from vram_planner.architecture.model import Vision
from vram_planner.architecture.parallel import Layout, rank_weight_bytes
from vram_planner.architecture.precision import Place
from vram_planner.engines.sglang_defaults import Setup, defaults_for, profile_of, vision_share
from vram_planner.errors import ParallelError
from vram_planner.model_profiles.resolve import resolve
from vram_planner.units import GIB, MIB

R1: dict[str, Any] = {"ctx": 8192, "concurrency": 64, "gpu": "8x H200", "offline": True}
H200_MIB = 143_771


def bytes_of(plan: vp.MemoryPlan, name: str) -> int:
    return plan.part(name).n_bytes


def test_each_rank_keeps_its_own_requests_and_whole_attention() -> None:
    """DeepSeek-R1 over 8 ranks: the latents of 8 requests in place of 64, attention and embedding whole, experts cut."""
    cut = vp.plan("671b", engine="sglang", tp=8, **R1)
    own = vp.plan("671b", engine="sglang", tp=8, dp=8, dp_attention=True, **R1)
    whole = resolve("deepseek-ai/DeepSeek-R1", offline=True).architecture

    assert own.kv.n_bytes * 8 == cut.kv.n_bytes
    assert own.kv.bytes_per_token == cut.kv.bytes_per_token == 61 * 576 * 2
    attention = sum(
        whole.precision.weight_bytes(weight, Place(whole, None)) * count
        for layer, count in whole.groups
        for weight in layer.mixer.weights
        if weight.units > 1
    )
    embedding = 129_280 * 7168 * 2
    grown = bytes_of(own, "weights") - bytes_of(cut, "weights")
    assert grown == pytest.approx((attention + embedding) * 7 / 8, rel=0.001)
    assert own.gpu is not None
    assert own.gpu.count == 8
    assert "--tp 8 --dp 8 --enable-dp-attention" in own.launch
    assert own.performance is not None
    assert any("measured speeds of groups" in text for text in own.not_modelled)


def test_groups_of_several_ranks_cut_attention_among_themselves() -> None:
    plan = vp.plan("Qwen/Qwen3-235B-A22B", engine="sglang", tp=8, dp=2, dp_attention=True, **R1)
    half = vp.plan("Qwen/Qwen3-235B-A22B", engine="sglang", tp=4, **{**R1, "gpu": "4x H200"})

    assert plan.kv.bytes_per_token == half.kv.bytes_per_token
    assert plan.kv.n_bytes * 2 == half.kv.n_bytes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "vllm", "dp_attention": True}, "vLLM has no"),
        ({"engine": "sglang", "dp_attention": True}, "--dp-attention with --dp 1"),
        ({"engine": "sglang", "dp_attention": True, "tp": 8, "dp": 3}, "3 groups"),
        ({"engine": "tensorrt-llm", "dp_attention": True, "tp": 8, "dp": 4}, "--dp 4 and tp 8"),
    ],
)
def test_groups_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ParallelError, match=words):
        vp.plan("671b", **{**R1, **options})


def test_tensorrt_llm_cuts_experts_alone() -> None:
    """
    Every rank holds all but the routed experts: LMHead and Embedding without a mapping, dense and shared blocks at tp 1.

    Source: TensorRT-LLM 000a01de, DecoderModelForCausalLM.__init__ of _torch/models/modeling_utils.py.
    """
    plan = vp.plan("671b", engine="tensorrt-llm", dp_attention=True, **R1)
    whole = resolve("deepseek-ai/DeepSeek-R1", offline=True).architecture
    all_of_it = rank_weight_bytes(whole, whole.precision, Layout())[0]
    experts = sum(
        whole.precision.weight_bytes(weight, Place(whole, None)) * count
        for layer, count in whole.groups
        for weight in layer.weights
        if weight.name.startswith("experts.") and not weight.name.startswith(OTHER_EXPERTS)
    )

    assert bytes_of(plan, "weights") == pytest.approx(all_of_it - experts * 7 / 8, rel=1e-6)
    assert plan.kv.n_bytes == 8 * 8192 * 61 * 576 * 2
    assert "--enable_attention_dp" in plan.launch


def test_replicas_of_sglang_share_no_experts() -> None:
    """Each replica is a server of its own: experts are dealt out over its tp ranks, not over tp × dp as in vLLM."""
    asked: dict[str, Any] = {"ctx": 4096, "concurrency": 8, "ep": True, "offline": True}
    one = vp.plan("Qwen/Qwen3-30B-A3B", engine="sglang", gpu="2x H100", tp=2, **asked)
    two = vp.plan("Qwen/Qwen3-30B-A3B", engine="sglang", gpu="4x H100", tp=2, dp=2, **asked)

    assert bytes_of(one, "weights") == bytes_of(two, "weights")
    assert one.capacity is not None
    assert two.capacity is not None
    assert one.capacity.max_concurrency == two.capacity.max_concurrency
    assert any("one of 2 data-parallel replicas" in text for text in two.warnings)


def test_the_log_of_a_v32_start_with_groups() -> None:
    """
    8 × B200, --tp 8 --dp 8 --enable-dp-attention: "#tokens: 975424, KV size: 43.67 GB" on each rank.

    Source: https://github.com/sgl-project/sglang/pull/11309; tolerance: the two logged decimals.
    """
    plan = vp.plan(
        "deepseek-ai/DeepSeek-V3.2-Exp",
        engine="sglang",
        engine_version="0.5.4",
        tp=8,
        dp=8,
        dp_attention=True,
        **{**R1, "gpu": "8x B200"},
    )

    assert 975_424 * plan.kv.bytes_per_token / GIB == pytest.approx(43.67, abs=0.006)


@pytest.mark.parametrize(
    ("version", "reserved_mib"),
    [
        ("0.4.7", 12 * 1024 + 512 * 8 + 4096),  # the tier, and 4 GiB
        # 512 + 1.5 · 8192 + 1024 + 2 · 512 + 512 · 8 · 4.5
        ("0.5.9", 512 + 12_288 + 1024 + 1024 + 18_432),
        ("0.5.23", 512 + 12_288 + 1024 + 1024 + 18_432 + 1536),  # and prefill graphs with MLA
    ],
)
def test_groups_are_reserved_for(version: str, reserved_mib: int) -> None:
    """Source: reserve_for_graph_mb, arg_groups/memory_hook.py of 0.5.23; server_args.py of 0.4.7 and 0.5.9."""
    found = defaults_for(version, H200_MIB * MIB, Setup(tp=8, attention_dp=8, mla=True))

    assert found.fraction == round((H200_MIB - reserved_mib) / H200_MIB, 3)
    assert found.chunk == 1024


@pytest.mark.parametrize(
    ("vision", "version", "share"),
    [
        # L·H² / (24·1024²) = 2.083, 1.423, 1.5625 and more than 3
        (
            Vision(family="qwen2_5_vl", depth=32, hidden=1280),
            "0.5.23",
            0.95 * (1 - 0.1 * (32 * 1280**2 / (24 << 20) - 1)),
        ),
        (
            Vision(family="gemma4", layers=27, hidden=1152),
            "0.5.23",
            0.95 * (1 - 0.1 * (27 * 1152**2 / (24 << 20) - 1)),
        ),
        (
            Vision(family="qwen2_5_vl", depth=32, hidden=1280),
            "0.5.9",
            0.95 * (1 - 0.1 * (1280**2 / (1 << 20) - 1)),
        ),
        (Vision(family="qwen2_vl", depth=32, hidden=3584), "0.5.23", 0.95 * 0.8),
        (Vision(family="gemma4", layers=16, hidden=768), "0.5.23", 0.95 * 1.05),
        (Vision(family="gemma3", layers=27, hidden=1152), "0.5.23", 1.0),  # runs without its encoder
        (None, "0.5.23", 1.0),
        (Vision(family="llava", layers=24, hidden=1024), "0.3.0", 1.0),
    ],
)
def test_a_vision_encoder_lowers_the_fraction(vision: Vision | None, version: str, share: float) -> None:
    """Source: adjust_mem_fraction_for_vlm, arg_groups/memory_hook.py of 0.5.23, and mm_disabled_models."""
    assert vision_share(profile_of(version), vision) == pytest.approx(share, abs=1e-9)


def test_a_vision_model_is_planned_with_less_and_without_prefill_graphs() -> None:
    """(143,771 − 10,240 …) MiB, as nvidia-smi counts them: 512 + 12,288 + 128 + 512 reserved, no prefill graphs, then × 0.847, and 100 MiB for images."""
    plan = vp.plan(
        "Qwen/Qwen2.5-VL-7B-Instruct", ctx=8192, concurrency=4, gpu="H200", engine="sglang", offline=True
    )
    card = plan.request["mem_fraction_static"]
    total = 143_771

    assert card == pytest.approx(round((total - 13_440) / total, 3) * 0.84708, abs=1e-4)
    assert "100 MiB set aside for images" in plan.part("runtime").detail


@pytest.mark.parametrize(
    ("model", "gpu", "page"),
    [
        ("Qwen/Qwen3-8B", "B200", 64),
        ("Qwen/Qwen3-8B", "H200", 1),
        ("Qwen/Qwen3-8B", "RTX 5090", 1),
        ("deepseek-ai/DeepSeek-V2-Lite", "B200", 1),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", "2x B200", 1),
    ],
)
def test_pages_of_datacentre_blackwell(model: str, gpu: str, page: int) -> None:
    """Source: get_default_attn_backend and _mla_backend_page_constraints, arg_groups of 0.5.23."""
    plan = vp.plan(model, ctx=8000, concurrency=4, gpu=gpu, engine="sglang", offline=True)

    assert plan.request["page_size"] == page
