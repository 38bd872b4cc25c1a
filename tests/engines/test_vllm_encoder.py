"""Vision towers in vLLM's profile run, against public start-up logs: no constant was fitted on them, but they were seen while the rules were written."""

from __future__ import annotations

from dataclasses import replace

import pytest

import vram_planner as vp
from vram_planner.architecture.vision import Eye
from vram_planner.engines.vllm_encoder import image_tokens, profiled_requests, see
from vram_planner.engines.vllm_profile_run import Run
from vram_planner.units import GIB
from vram_planner.validate.evidence import Replayed, read_records, replay_all

QWEN = Eye(
    kind="qwen3", width=1152, inner=4304, out=2048, pixels=1536, patches_per_token=4, image_tokens=16_384
)
GEMMA = Eye(
    kind="siglip", width=1152, inner=4304, out=5376, pixels=588, patches_per_token=16, image_tokens=256
)
RUN = Run(
    tokens=8192, requests=256, vocabulary=151_936, element_bytes=2, tp=1, context=8192, block=16,
    sampler="v1", capability=(9, 0), multiprocessors=132,
)  # fmt: skip


def test_twelve_copies_of_the_largest_picture() -> None:
    """One picture of 65,536 patches: 12 · 144 MiB, and its pixels in bfloat16. Counted in vLLM 0.24's code."""
    seen = see(QWEN, RUN)

    assert seen.pictures == 1
    assert seen.tower_bytes == 12 * 65_536 * 1152 * 2 + 65_536 * 1536 * 2
    assert seen.kept_bytes == 65_536 * 1536 * 2 + 16_384 * 2048 * 2


@pytest.mark.parametrize(
    ("id_", "component", "tolerance"),
    [
        ("vllm-club3090-612-a", "KV tokens", 0.03),  # 19 % off without the tower
        ("vllm-16378-a", "KV blocks", 0.02),  # 14 %
        ("vllm-16378-a", "weights", 0.002),
        ("vllm-15766-a", "weights", 0.002),
        ("vllm-15766-a", "activation", 0.02),
        ("vllm-16570-a", "weights", 0.002),
        ("llmd-v0190-google-gemma-3-27b-it--h100-80gb--tp1pp1dp1--8192", "KV tokens", 0.002),
        ("llmd-v0190-google-gemma-3-27b-it--h100-80gb--tp1pp1dp1--8192", "weights", 0.001),
        ("vllm-11899-a", "KV blocks", 0.02),
    ],
)
def test_starts_of_models_that_see(id_: str, component: str, tolerance: float) -> None:
    (row,) = replay_all(row for row in read_records() if row["id"] == id_)

    assert isinstance(row, Replayed)
    ours, logged = row.pairs[component]
    assert ours == pytest.approx(logged, rel=tolerance)


def test_v0_profiles_as_many_requests_as_have_room_for_their_pictures() -> None:
    """16,384 tokens hold 63 of Gemma 3's pictures with the tokens around them; 4,097 hold none of Qwen's pairs."""
    assert profiled_requests(GEMMA, tokens=16_384, requests=64, era="float32") == 63
    assert profiled_requests(QWEN, tokens=4097, requests=256, era="float32") == 1
    assert image_tokens(QWEN, "capped") == 35 * 35
    assert image_tokens(GEMMA, "capped") == 256


def test_the_budget_is_rounded_up_once_and_down_later() -> None:
    early = see(GEMMA, replace(RUN, eyes="float32", tokens=8000))
    late = see(GEMMA, replace(RUN, tokens=8000))

    assert (early.pictures, late.pictures) == (32, 31)


@pytest.mark.parametrize("era", ["capped", "float32", "gather", "heads"])
@pytest.mark.parametrize(
    "eye", [QWEN, GEMMA, replace(QWEN, kind="qwen2"), replace(QWEN, kind="qwen2_5", gated=True)]
)
def test_more_ranks_never_take_more_than_a_gather(eye: Eye, era: str) -> None:
    one, four = (see(eye, replace(RUN, eyes=era, tp=tp)).tower_bytes for tp in (1, 4))

    assert 0 < four <= one


def test_a_plan_says_how_to_do_without_pictures() -> None:
    plan = vp.plan(
        "Qwen/Qwen3-VL-8B-Instruct",
        ctx=8192,
        concurrency=1,
        engine_version="0.24",
        max_num_seqs=16,
        gpu="h100",
    )

    assert "vision tower" in plan.part("activations").detail
    assert any("--limit-mm-per-prompt" in warning for warning in plan.warnings)


def test_a_tower_that_is_not_known_is_said_to_be_left_out() -> None:
    plan = vp.plan("llava-hf/llava-1.5-7b-hf", ctx=2048, concurrency=1)

    assert any("tower" in text for text in plan.not_modelled)


@pytest.mark.parametrize(
    ("model", "version", "logged"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", "0.5.0", 5.3128),
        ("Qwen/Qwen2.5-7B-Instruct-1M", "0.7.3", 5.43),
    ],
)
def test_bitsandbytes_is_quantised_twice_on_loading(model: str, version: str, logged: float) -> None:
    """Logged by vLLM (vllm-project/vllm issue 5569, and a start on an RTX 3050); without it 0.3 GiB more."""
    plan = vp.plan(model, ctx=4096, concurrency=1, quant="nf4", engine_version=version)

    ours = plan.part("weights").n_bytes + plan.part("buffers").n_bytes
    assert ours / GIB == pytest.approx(logged, abs=0.02)


def test_mla_keeps_16_bit_copies_of_packed_weights() -> None:
    """vLLM 0.8.0 logs 40.32 GiB a rank for DeepSeek-V3 over 16 (vllm-project/vllm issue 15453)."""
    plan = vp.plan("deepseek-ai/DeepSeek-V3", ctx=4096, concurrency=1, tp=16, engine_version="0.8.0")

    copies = 61 * 128 // 16 * 256 * 512 * 2
    ours = plan.part("weights").n_bytes + plan.part("buffers").n_bytes
    assert f"{copies:,} B" in plan.part("buffers").detail
    assert ours == pytest.approx(40.3172 * GIB, rel=0.0015)
