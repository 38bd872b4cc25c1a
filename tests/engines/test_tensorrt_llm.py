from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vram_planner as vp
from vram_planner.units import GIB


def test_blocks_of_a_logged_pool() -> None:
    """
    0.13 on a 40 GB card, Qwen1.5-7B: "available: 21.89 GiB", "Number of blocks in KV cache primary pool: 631".

    The tokens are rounded up to whole blocks: 630.4 of them. Source: https://github.com/NVIDIA/TensorRT-LLM/issues/2268.
    """
    plan = vp.plan(
        "Qwen/Qwen1.5-7B", ctx=8192, concurrency=1, engine="tensorrt-llm", engine_version="0.13",
        gpu="custom:39.39GiB",
    )  # fmt: skip
    block_bytes = 64 * plan.kv.bytes_per_token

    assert block_bytes == 64 * 524_288
    assert -(-int(0.9 * 21.89 * GIB) // block_bytes) == 631


def test_mla_tokens_of_a_logged_pool() -> None:
    """Kimi-K2.5 with an fp8 cache: 166.02 GiB hold 5,073,376 tokens, 158,543 blocks of 32 (a public test log)."""
    plan = vp.plan(
        "moonshotai/Kimi-K2-Instruct", ctx=8192, concurrency=1, engine="tensorrt-llm", tp=8, kv_dtype="fp8"
    )

    assert plan.kv.bytes_per_token == 61 * 576
    assert plan.kv.replicated_ranks == 8
    assert round(5_073_376 * plan.kv.bytes_per_token / GIB, 2) == 166.02


@pytest.mark.parametrize(("version", "block"), [(None, 32), ("1.2.0", 32), ("0.13.0", 64)])
def test_blocks_by_version(version: str | None, block: int) -> None:
    plan = vp.plan("8b", ctx=4096, concurrency=1, engine="trtllm", engine_version=version)

    assert plan.request["tokens_per_block"] == block


def test_the_pool_is_a_share_of_what_is_free_after_the_load() -> None:
    plan = vp.plan("8b", ctx=8192, concurrency=4, engine="tensorrt-llm", gpu="H100")
    assert plan.capacity is not None
    assert plan.gpu is not None
    others = plan.total_bytes - plan.part("kv_cache").n_bytes
    free = plan.gpu.total_bytes - others

    assert plan.capacity.kv_pool_bytes == int(0.9 * free)
    assert plan.gpu.usable_bytes == others + -(-int(0.9 * free) // (32 * 131_072)) * 32 * 131_072
    assert plan.fits is True


def test_an_unknown_cache_type_is_refused() -> None:
    with pytest.raises(vp.PlannerError, match="no KV cache type 'q8_0'"):
        vp.plan("8b", ctx=4096, concurrency=1, engine="tensorrt-llm", kv_dtype="q8_0")


@settings(max_examples=30, deadline=None)
@given(ctx=st.integers(1, 100_000), concurrency=st.integers(1, 64), gib=st.integers(24, 140))
def test_need_and_capacity_agree(ctx: int, concurrency: int, gib: int) -> None:
    plan = vp.plan("8b", ctx=ctx, concurrency=concurrency, engine="tensorrt-llm", gpu=f"custom:{gib}GiB")
    assert plan.capacity is not None

    blocks = -(-ctx // 32) * concurrency
    assert (plan.capacity.max_concurrency >= concurrency) == (blocks <= (plan.capacity.num_blocks or 0))


def test_slots_of_states_come_out_of_the_pool() -> None:
    """
    Qwen3-Next at tp 4, 36 layers: conv 2048 · 3 · 2 B and state 8 · 128 · 128 · 2 B (the model's own type) a slot.

    16 requests and one slot for padding; 12 attention layers of one head of 256 keep 12 · 512 · 2 B a token.
    """
    plan = vp.plan(
        "Qwen/Qwen3-Next-80B-A3B-Instruct",
        ctx=8192,
        concurrency=16,
        engine="tensorrt-llm",
        tp=4,
        gpu="4x H100",
    )
    slot = 36 * (2048 * 3 * 2 + 8 * 128 * 128 * 2)
    assert plan.capacity is not None

    assert plan.part("recurrent_state").n_bytes == 17 * slot
    assert plan.kv.bytes_per_token == 12 * 512 * 2
    assert "--max_batch_size 16" in plan.launch
    at_once = int(plan.capacity.max_concurrency)
    left = plan.capacity.kv_pool_bytes - (at_once + 1) * slot
    assert at_once * 8192 <= left // (32 * 12_288) * 32
    assert (at_once + 1) * 8192 > (left - slot) // (32 * 12_288) * 32


def test_an_indexer_has_keys_beside_the_latent() -> None:
    """DeepSeek-V3.2: 61 · (576 · 2 + 132) B in blocks of 64; GLM-5.2: 78 latents and the keys of 21 layers."""
    one, two = (
        vp.plan(name, ctx=8192, concurrency=1, engine="tensorrt-llm", tp=8)
        for name in ("deepseek-ai/DeepSeek-V3.2", "nvidia/GLM-5.2-NVFP4")
    )

    assert one.kv.bytes_per_token == 61 * (1152 + 132)
    assert one.request["tokens_per_block"] == 64
    assert two.kv.bytes_per_token == 78 * 1152 + 21 * 132


def test_chunked_layers_keep_every_token() -> None:
    """Llama 4 Scout at tp 8: 48 layers of one head, 2 · 128 · 2 B."""
    plan = vp.plan(
        "meta-llama/Llama-4-Scout-17B-16E-Instruct", ctx=8192, concurrency=1, engine="tensorrt-llm", tp=8
    )

    assert plan.kv.bytes_per_token == 48 * 512


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", "leaves out cross-attention"),
        ("deepseek-ai/DeepSeek-V4-Flash", "cache manager for deepseek_v4"),
        ("MiniMaxAI/MiniMax-M3", "cache manager for minimax_m3"),
        ("ai21labs/AI21-Jamba-1.5-Mini", "no states of the kind mamba"),
    ],
)
def test_what_its_backend_does_not_run_is_refused(model: str, reason: str) -> None:
    with pytest.raises(vp.PlannerError, match=reason) as caught:
        vp.plan(model, ctx=4096, concurrency=1, engine="tensorrt-llm")

    assert "--engine" in caught.value.hint


def test_the_pool_and_its_tokens_as_a_start_of_1_1_logs_them() -> None:
    """
    gpt-oss-120b: 119.70 GiB − 113.65 at the peak + 0.56 of the dry run's own cache, × 0.9, hold 86,720 tokens.

    73,728 B a token, 2,710 blocks of 32: the last one rounded up. The tensors are 63.52 GiB in the log.
    Source: a public repository file (repository not named), a DGX Spark with 1.1.0rc3. Tolerance: one block for the logged
    decimals; 5 % of the tensors, whose MXFP4 layout is not modelled.
    """
    plan = vp.plan("openai/gpt-oss-120b", ctx=8192, concurrency=1, engine="tensorrt-llm")
    pool = (119.70 - 113.65 + 0.56) * 0.9 * GIB

    assert plan.kv.bytes_per_token == 73_728
    assert -(-pool // (32 * plan.kv.bytes_per_token)) == pytest.approx(2710, abs=2)
    assert plan.part("weights").n_bytes / GIB == pytest.approx(63.52, rel=0.05)


def test_bytes_of_a_logged_pool_of_0_8() -> None:
    """Llama's 32 layers of 4096: 69,524,783,104 B for 132,608 tokens. Source: TensorRT-LLM issue 1400. Tolerance: none."""
    plan = vp.plan("meta-llama/Llama-2-7b-hf", ctx=4096, concurrency=1, engine="tensorrt-llm")

    assert 132_608 * plan.kv.bytes_per_token == 69_524_783_104


def test_a_layer_for_multi_token_prediction_is_held_and_costs_its_latent() -> None:
    """DeepSeek-V3 at tp 8: 62 layers of 576 numbers; its tensors are in what is gone before the pool."""
    bare, drafting = (
        vp.plan(
            "deepseek-ai/DeepSeek-V3", ctx=8192, concurrency=1, engine="tensorrt-llm", tp=8, gpu="8x H200",
            kv_dtype="fp8", speculative=method, offline=True,
        )
        for method in (None, "mtp")
    )  # fmt: skip
    assert bare.capacity is not None
    assert drafting.capacity is not None
    draft = drafting.part("draft_model").n_bytes

    assert (bare.kv.bytes_per_token, drafting.kv.bytes_per_token) == (61 * 576, 62 * 576)
    # 256 experts of 3 · 7168 · 2048 numbers are the most of it: an eighth, in one byte each
    assert draft == pytest.approx(256 * 3 * 7168 * 2048 / 8, rel=0.2)
    assert bare.capacity.kv_pool_bytes - drafting.capacity.kv_pool_bytes == pytest.approx(0.9 * draft, abs=2)
    assert '{"decoding_type": "MTP", "num_nextn_predict_layers": 1}' in drafting.launch


def test_a_draft_model_has_a_pool_of_as_many_tokens() -> None:
    """Llama-3.1-8B: 131,072 B a token, and 32,768 of Llama-3.2-1B beside them; 3 drafted tokens open one block more."""
    plan = vp.plan(
        "meta-llama/Llama-3.1-8B-Instruct", ctx=8192, concurrency=1, engine="tensorrt-llm", gpu="H100",
        speculative="draft:meta-llama/Llama-3.2-1B-Instruct", speculative_tokens=3, offline=True,
    )  # fmt: skip

    assert plan.kv.bytes_per_token == 131_072 + 32_768
    assert plan.part("kv_cache").n_bytes == (8192 // 32 + 1) * 32 * plan.kv.bytes_per_token
    assert plan.part("draft_model").n_bytes == pytest.approx(2_471_628_800, rel=1e-3)
    assert '"speculative_model_dir": "meta-llama/Llama-3.2-1B-Instruct"' in plan.launch


def test_ngrams_hold_nothing() -> None:
    plan = vp.plan(
        "8b", ctx=8192, concurrency=1, engine="tensorrt-llm", speculative="ngram", speculative_tokens=4
    )

    assert "draft_model" not in {part.name for part in plan.parts}
    assert plan.kv.bytes_per_token == 131_072


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speculative": "eagle:1.5b"}, "has no method 'eagle' here"),
        ({"speculative": "mtp"}, "no layers for multi-token prediction"),
        ({"speculative": "ngram"}, "needs a number of tokens"),
        ({"speculative": "draft"}, "names no model"),
        ({"speculative_tokens": 3}, "say nothing without a method"),
        ({"speculative": "eagle3:1.5b", "speculative_tokens": 2}, "is no EAGLE-3 head"),
        ({"speculative": "ngram", "speculative_tokens": 2, "pp": 2}, "beside pipeline stages"),
    ],
)
def test_speculation_that_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(vp.PlannerError, match=message):
        vp.plan("8b", ctx=4096, concurrency=1, engine="tensorrt-llm", offline=True, **options)
