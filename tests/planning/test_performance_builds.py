"""What builds of llama.cpp and releases of transformers do otherwise, as their sources have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import vram_planner as vp
from vram_planner.planning.performance import Assumptions

if TYPE_CHECKING:
    from vram_planner.planning.performance import Served

LLAMA_8B = "meta-llama/Meta-Llama-3-8B"
# Of a layer: q and o 4096 × 4096, k and v 1024 × 4096, gate, up and down of 14336.
MATRICES = 2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096
ENDS = 2 * (4096 + 4096) + 2 * (1024 + 4096) + 3 * (14336 + 4096)


def served(model: str = LLAMA_8B, **options: Any) -> Served:
    asked: dict[str, Any] = {"ctx": 8192, "concurrency": 1, "gpu": "A100-80GB", "engine": "llama.cpp"}
    found = vp.plan(model, **{**asked, **options}).served
    assert found is not None
    return found


def test_scores_are_written_out_without_flash_attention() -> None:
    """Off by default until PR 15434 of August 2025; 32 layers of 32 query heads."""
    assert served(quant="f16", engine_version="b2824").work().score_heads == 32 * 32
    assert served(quant="f16", engine_version="b6000").work().score_heads == 32 * 32
    assert served(quant="f16", engine_version="b6918").work().score_heads == 0
    assert served(quant="f16").work().score_heads == 0
    assert served(quant="f16", flash_attn=False).work().score_heads == 32 * 32
    assert served(quant="f16", engine_version="b2824", flash_attn=True).work().score_heads == 0


def test_old_builds_unpack_quantised_weights() -> None:
    """Before PR 8075 of June 2024 on CUDA: read as stored, written as halves; 16-bit weights and Metal have no need."""
    old = served(quant="q4_k_m", engine_version="b2824")

    halves = old.work().dense_bytes + 2 * 32 * MATRICES
    assert old.work().unpacked_bytes == pytest.approx(halves, rel=1e-4)  # and a few norms
    assert old.kernels == "unpacked"
    for other in (
        served(quant="q4_k_m", engine_version="b3622"),
        served(quant="f16", engine_version="b2824"),
        served(quant="q4_k_m", engine_version="b2824", gpu="M2 Ultra"),
    ):
        assert other.work().unpacked_bytes == 0
        assert other.kernels in ("gguf", "16bit")


def test_what_goes_into_matrices_and_comes_out() -> None:
    assert served(quant="f16").work().ends == 32 * ENDS
    assert served(engine="vllm").work().ends == 0


def test_experts_that_a_token_uses_count_for_its_ends() -> None:
    """Qwen3-30B-A3B: 8 of 128 experts of 768 over 2048 a token; attention of 32 and 4 heads of 128, a router of 128."""
    attention = 2 * (4096 + 2048) + 2 * (512 + 2048) + (128 + 2048)

    assert served("Qwen/Qwen3-30B-A3B", quant="q8_0").work().ends == 48 * (attention + 8 * 3 * (768 + 2048))


def test_launches_that_a_queue_takes_bound_a_pipeline() -> None:
    """20 layers of 52 kernels are more than the 1000 of a queue, 10 layers are not; 4 inputs of a graph at most."""
    options: dict[str, Any] = {"quant": "q4_k_m", "engine_version": "b2824", "gpu": "A100-80GB"}
    model = "meta-llama/Meta-Llama-3-70B"

    four, eight = served(model, **options, pp=4), served(model, **options, pp=8)
    assert four.load(Assumptions()).queued == pytest.approx(1000 / (20 * 52))
    assert eight.load(Assumptions()).queued == pytest.approx(1000 / (10 * 52))
    assert served(LLAMA_8B, quant="q4_k_m", pp=8).load(Assumptions()).queued == 4
    assert served(LLAMA_8B, engine="vllm", pp=2).load(Assumptions()).queued == 0


def test_transformers_repeated_its_cache_until_sdpa_shared_heads() -> None:
    """PR 39412, released with 4.54: Llama 3 8B has four query heads to a key."""
    old, new = (
        served(engine="transformers", engine_version=version).work().cache_bytes(1000)
        for version in ("4.46.0", "4.54.0")
    )

    assert old == 4 * new


def test_transformers_is_bound_by_its_launches() -> None:
    """Modules launch one by one: a small model's token takes the host's time, whatever its weights."""
    times = [
        served(model, engine="transformers", quant="bfloat16").times(Assumptions(prompt=1, output=512))
        for model in ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct")
    ]
    small, large = (each.tpot_s for each in times if each is not None)

    assert large / small == pytest.approx(28 / 24, rel=0.05)  # layers, at three times the weights
