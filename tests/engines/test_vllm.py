from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vram_planner as vp
from vram_planner.architecture.parallel import Layout
from vram_planner.architecture.precision import Uniform
from vram_planner.architecture.storage import BFLOAT16
from vram_planner.basis import Basis
from vram_planner.engines import vllm, vllm_parts, vllm_setting, vllm_weights
from vram_planner.engines.base import Ask, Device, Memory, Options, Workload
from vram_planner.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.precision import Precision

ORACLES = Path(__file__).parent.parent / "oracles"
ROWS = [
    json.loads(line)
    for name in ("vllm.jsonl", "vllm_more.jsonl")
    for line in (ORACLES / name).read_text(encoding="utf-8").splitlines()
]
ENGINE = vllm.Vllm()
POOL = ("kv_cache", "recurrent_state")


def served(architecture: Architecture) -> Precision:
    """As stored, but a float32 checkpoint in 16 bits: vLLM's --dtype auto casts it."""
    stored = architecture.precision
    if isinstance(stored, Uniform) and stored.base.name == "float32":
        return stored.with_base(BFLOAT16)
    return stored


def ask_for(row: dict[str, Any], architecture: Architecture, total_bytes: int = 80 * GIB) -> Ask:
    major, minor = row["cc"].split(".")
    return Ask(
        architecture=architecture,
        precision=served(architecture),
        workload=Workload(context=row["max_model_len"], concurrency=1, prompt_tokens=1),
        layout=Layout(tp=row["tp"], expert_parallel=row["ep"]),
        options=Options(
            kv_dtype=row["kv_dtype"],
            block_size=row["asked_block_size"],
            max_num_batched_tokens=row["max_num_batched_tokens"],
        ),
        device=Device(name="pretend", total_bytes=total_bytes, compute_capability=(int(major), int(minor))),
    )


def with_pool(ask: Ask, pool_bytes: int) -> tuple[Ask, Memory]:
    """The same ask on a card whose budget leaves just `pool_bytes` for the cache."""
    ask = replace(ask, options=replace(ask.options, gpu_memory_utilization=1.0, max_num_seqs=256))
    fixed = sum(part.budgeted_bytes for part in ENGINE.memory(ask).parts if part.name not in POOL)
    assert ask.device is not None
    sized = replace(ask, device=replace(ask.device, total_bytes=pool_bytes + fixed))
    return sized, ENGINE.memory(sized)


def check_without_prefixes(ask: Ask, row: dict[str, Any]) -> None:
    """Without prefix caching a state takes one block."""
    ask = replace(ask, options=replace(ask.options, prefix_caching=False))
    setting = vllm_setting.settle(ask)
    groups = vllm_setting.stage_groups(ask, setting)
    blocks = groups.blocks_per_request(ask.workload.context, vllm_setting.in_flight(ask, setting))
    for result in row["results"]:
        assert groups.bytes_per_block == result["bytes_per_block"]
        assert result["num_blocks"] / blocks == result["max_concurrency"]


@pytest.mark.parametrize(
    "row",
    ROWS,
    ids=lambda row: f"{row['model']}-tp{row['tp']}-{row['kv_dtype']}-{row['max_model_len']}",
)
def test_blocks_tokens_and_concurrency_are_those_of_vllm(
    row: dict[str, Any], oracle_architecture: Callable[[str], Architecture]
) -> None:
    """Source: vLLM 0.32.0's own configuration and KV-cache code on a pretended CUDA platform. Tolerance: none."""
    ask = ask_for(row, oracle_architecture(row["model"]))

    if not row.get("prefix_caching", True):
        check_without_prefixes(ask, row)
        return
    for result in row["results"]:
        sized, memory = with_pool(ask, result["available_bytes"])
        capacity = ENGINE.capacity(sized, memory)

        assert memory.settings["block_size"] == row["block_size"]
        assert capacity.kv_pool_bytes == result["available_bytes"]
        assert capacity.num_blocks == result["num_blocks"]
        assert capacity.max_concurrency == result["max_concurrency"]
        assert capacity.kv_cache_tokens == result["kv_tokens"]
        assert result["available_bytes"] // result["bytes_per_block"] == capacity.num_blocks


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row["param_bytes"] is not None],
    ids=lambda row: f"{row['model']}-tp{row['tp']}-ep{row['ep']}",
)
def test_weights_of_a_rank_are_what_vllm_allocates(
    row: dict[str, Any], oracle_architecture: Callable[[str], Architecture]
) -> None:
    """
    Source: parameters that vLLM 0.32.0 allocates on rank 0, on the meta device. Tolerance: none.

    With them Gemma 4's `layer_scalar`, which is a buffer, and Phi's bias of the head, which comes on loading; without the four scalars of a quantised cache that each
    attention layer of an FP8 checkpoint drops after loading. Null where the configuration at hand leaves out
    which modules the checkpoint does not quantise (NVFP4).
    """
    ask = ask_for(row, oracle_architecture(row["model"]))
    weights = next(part for part in ENGINE.memory(ask).parts if part.name == "weights")

    # Without triton_kernels vLLM runs MXFP4 experts on Marlin, which pads them: the upper end of the band.
    assert weights.n_bytes + vllm_parts.mxfp4_padding_bytes(ask) == row["param_bytes"]
    assert weights.high == row["param_bytes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 64}, "blocks of 256 tokens, not of 64"),
        ({"kv_dtype": "bfloat16"}, "in fp8 alone, not in bfloat16"),
    ],
)
def test_deepseek_v4_takes_no_other_pages(options: dict[str, Any], message: str) -> None:
    """Source: what vLLM 0.32.0 answers: a division by zero for the block, a ValueError for the type."""
    with pytest.raises(vp.PlannerError, match=message):
        vp.plan("deepseek-ai/DeepSeek-V4-Flash", ctx=8192, concurrency=1, tp=4, **options)


def test_deepseek_v4_is_held_whole_on_every_rank() -> None:
    """Window, entries, keys and what waits: five groups, and every rank of tensor parallelism holds them all."""
    plans = [vp.plan("deepseek-ai/DeepSeek-V4-Flash", ctx=65_536, concurrency=4, tp=tp) for tp in (1, 8)]

    assert plans[0].part("kv_cache").n_bytes == plans[1].part("kv_cache").n_bytes
    assert [plan.kv.replicated_ranks for plan in plans] == [1, 8]


def test_a_stage_of_compressed_attention_holds_its_own_layers() -> None:
    """Source: _get_kv_cache_bytes_per_block over the layers of a worker. Two stages need about half each."""
    whole, half = (
        vp.plan(
            "deepseek-ai/DeepSeek-V4-Flash", ctx=65_536, concurrency=4, pp=pp, max_num_batched_tokens=2048
        )
        for pp in (1, 2)
    )

    assert whole.kv.bytes_per_token < 2.2 * half.kv.bytes_per_token


def test_experts_cut_too_fine_are_refused() -> None:
    """Width 1536 on 64 ranks is 24: vLLM refines scales down to tiles of 32, and refuses less."""
    architecture = vp.load_architecture("MiniMaxAI/MiniMax-M2.5")

    with pytest.raises(vp.PlannerError, match="to a width of 24"):
        vllm_weights.as_held(architecture, architecture.precision, Layout(tp=64))
    vllm_weights.as_held(architecture, architecture.precision, Layout(tp=64, expert_parallel=True))


def test_auto_follows_the_type_of_cache_that_the_checkpoint_asks_for() -> None:
    """Source: vLLM utils/torch_utils.py of 0.14.0, resolve_kv_cache_dtype_string, which 0.13.0 has not."""
    model = "nvidia/Qwen3-235B-A22B-NVFP4"
    auto = vp.plan(model, ctx=8192, concurrency=1, engine_version="0.14")
    wide = vp.plan(model, ctx=8192, concurrency=1, kv_dtype="bfloat16")
    old = vp.plan(model, ctx=8192, concurrency=1, engine_version="0.13")

    assert auto.request["kv_dtype"] == "fp8"
    assert wide.kv.bytes_per_token == old.kv.bytes_per_token == 2 * auto.kv.bytes_per_token
    assert any("quantised KV cache" in warning for warning in old.warnings)


def test_seven_billion_at_8192_for_sixteen() -> None:
    plan = vp.plan("7b", ctx=8192, concurrency=16)

    assert plan.model.architecture.parameters == 7_615_616_512
    assert plan.part("weights").n_bytes == 15_231_233_024
    assert plan.kv.bytes_per_token == 57_344
    assert plan.part("kv_cache").n_bytes == 7_516_192_768


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_mla_is_held_whole_on_every_rank(tp: int) -> None:
    """61 layers × (512 + 64) × 2 B; source: vLLM MLAAttentionSpec."""
    plan = vp.plan("deepseek-ai/DeepSeek-V3", ctx=8192, concurrency=1, tp=tp)

    assert plan.kv.bytes_per_token == 70_272
    assert plan.kv.replicated_ranks == tp


@pytest.mark.parametrize(
    ("model", "ctx", "num_blocks", "concurrency"),
    [
        ("google/gemma-3-27b-it", 8192, 15_997, 4.46),
        ("google/gemma-3-12b-it", 8192, 48_867, 15.88),
        ("google/gemma-2-27b", 8192, 7_335, 7.16),
    ],
)
def test_hybrid_models_reach_the_logged_concurrency(
    model: str, ctx: int, num_blocks: int, concurrency: float
) -> None:
    """Source: start-up logs of vLLM 0.19.0 on H100 (llm-d benchmark logs); two decimals, as logged."""
    architecture = vp.load_architecture(model)
    row = {
        "cc": "9.0",
        "max_model_len": ctx,
        "tp": 1,
        "ep": False,
        "kv_dtype": "auto",
        "asked_block_size": None,
        "max_num_batched_tokens": 8192,
    }
    ask = ask_for(row, architecture)
    per_block = vllm_setting.stage_groups(ask, vllm_setting.settle(ask)).bytes_per_block
    sized, memory = with_pool(ask, num_blocks * per_block)
    capacity = ENGINE.capacity(sized, memory)

    assert capacity.num_blocks == num_blocks
    assert round(capacity.max_concurrency, 2) == concurrency


def test_gemma_3_27b_takes_4_38_gib_a_request_at_8192() -> None:
    """Group padding makes the window cost more than it saves here. Source: vLLM 0.19.0 logs."""
    plan = vp.plan("google/gemma-3-27b-it", ctx=8192, concurrency=1, max_num_batched_tokens=8192)

    assert plan.kv.bytes_per_request == 3_590 * 1_310_720
    assert round(plan.kv.bytes_per_request / GIB, 2) == 4.38


def test_fp8_weights_never_imply_an_fp8_cache() -> None:
    stored = vp.plan("8b", ctx=4096, concurrency=1)
    weights = vp.plan("8b", ctx=4096, concurrency=1, quant="fp8")
    cache = vp.plan("8b", ctx=4096, concurrency=1, kv_dtype="fp8")

    assert weights.kv.bytes_per_token == stored.kv.bytes_per_token == 2 * cache.kv.bytes_per_token
    assert weights.part("weights").n_bytes < 0.6 * cache.part("weights").n_bytes


def test_tp_that_does_not_divide_is_refused_with_the_valid_sizes() -> None:
    with pytest.raises(vp.PlannerError, match="tensor parallel 5") as caught:
        vp.plan("Qwen/Qwen3-14B", ctx=4096, concurrency=1, tp=5)

    assert "1, 2, 4, 8" in caught.value.hint


@pytest.mark.parametrize(
    ("version", "title", "utilization"),
    [
        ("0.8.5", "0.8", 0.9),
        ("0.11.0", "0.11", 0.9),
        ("0.19.1", "0.19", 0.9),
        ("0.31.0", "0.31", 0.92),
        (None, "0.32", 0.92),
    ],
)
def test_versions_take_their_profile(version: str | None, title: str, utilization: float) -> None:
    plan = vp.plan("8b", ctx=4096, concurrency=1, gpu="custom:24GiB", engine_version=version)

    assert plan.engine_title == f"vLLM {title}"
    assert plan.gpu is not None
    assert plan.gpu.usable_bytes == int(24 * GIB * utilization)


def test_a_version_between_profiles_says_which_one_it_used() -> None:
    plan = vp.plan("8b", ctx=4096, concurrency=1, engine_version="0.14.1")

    assert plan.engine_title == "vLLM 0.14"
    assert any("are known from 0.11" in warning for warning in plan.warnings)


def test_an_older_version_than_any_is_refused() -> None:
    with pytest.raises(vp.PlannerError, match="older than any version"):
        vp.plan("8b", ctx=4096, concurrency=1, engine_version="0.2")


@pytest.mark.parametrize(
    ("gpu", "tokens", "requests"),
    [("custom:24GiB", 2048, 256), ("A100 80GB", 2048, 256), ("H100", 8192, 1024), ("B200", 16384, 1024)],
)
def test_defaults_go_by_card(gpu: str, tokens: int, requests: int) -> None:
    """Source: vLLM 0.32 EngineArgs.get_batch_defaults, API server."""
    plan = vp.plan("7b", ctx=4096, concurrency=1, gpu=gpu)

    assert plan.request["max_num_batched_tokens"] == tokens
    assert plan.request["max_num_seqs"] == requests


def test_the_budget_identity_of_a_logged_start() -> None:
    """
    Llama-3.1-8B on H100, vLLM 0.19.0, utilisation 0.95: 14.99 GiB weights, 1.89 activations, 58.11 KV, 29,751 blocks.

    Source: llm-d benchmark log. The non-torch constant of this profile was read from logs of this run's kind.
    """
    plan = vp.plan(
        "meta-llama/Llama-3.1-8B-Instruct",
        ctx=8192,
        concurrency=1,
        engine_version="0.19.0",
        gpu="custom:79.19GiB",
        gpu_memory_utilization=0.95,
    )
    assert plan.capacity is not None
    weights = plan.part("weights").n_bytes + plan.part("buffers").n_bytes

    assert weights / GIB == pytest.approx(14.99, abs=0.005)
    assert plan.part("activations").n_bytes / GIB == pytest.approx(1.89, abs=0.01)
    assert plan.capacity.num_blocks == pytest.approx(29_751, rel=0.001)
    assert plan.capacity.max_concurrency == pytest.approx(58.11, abs=0.01)


def test_pipeline_stages_hold_a_part_each() -> None:
    """Logged: 7.51 GiB of weights on the fullest of two stages, 4.26 of four (vLLM 0.19.0, Llama-3.1-8B)."""
    for pp, logged in ((2, 7.51), (4, 4.26)):
        plan = vp.plan(
            "meta-llama/Llama-3.1-8B-Instruct", ctx=8192, concurrency=1, pp=pp, engine_version="0.19.0"
        )
        weights = plan.part("weights").n_bytes + plan.part("buffers").n_bytes

        assert weights / GIB == pytest.approx(logged, abs=0.01)


def test_every_part_says_how_it_is_known() -> None:
    for part in vp.plan("7b", ctx=8192, concurrency=16, gpu="H100").parts:
        assert isinstance(part.basis, Basis)
        assert part.source
        assert part.detail
        assert part.low <= part.n_bytes <= part.high


@settings(max_examples=60, deadline=None)
@given(
    model=st.sampled_from(
        ["7b", "google/gemma-3-27b-it", "deepseek-ai/DeepSeek-V2-Lite", "mistralai/Mistral-7B-v0.1"]
    ),
    ctx=st.integers(1, 200_000),
    more=st.integers(1, 50_000),
    concurrency=st.integers(1, 200),
)
def test_more_never_costs_less(model: str, ctx: int, more: int, concurrency: int) -> None:
    base = vp.plan(model, ctx=ctx, concurrency=concurrency)
    longer = vp.plan(model, ctx=ctx + more, concurrency=concurrency)
    busier = vp.plan(model, ctx=ctx, concurrency=concurrency + 1)

    assert longer.total_bytes >= base.total_bytes
    assert busier.part("kv_cache").n_bytes > base.part("kv_cache").n_bytes
    assert base.total_bytes == sum(part.n_bytes for part in base.parts)


@settings(max_examples=40, deadline=None)
@given(
    model=st.sampled_from(["8b", "70b", "mistralai/Mixtral-8x7B-v0.1", "deepseek-ai/DeepSeek-V3"]),
    tp=st.sampled_from([1, 2, 4]),
)
def test_twice_the_ranks_never_need_more_weight_each(model: str, tp: int) -> None:
    few = vp.plan(model, ctx=4096, concurrency=1, tp=tp).part("weights").n_bytes
    many = vp.plan(model, ctx=4096, concurrency=1, tp=2 * tp).part("weights").n_bytes

    assert many < few <= 2 * many + 1


@settings(max_examples=60, deadline=None)
@given(ctx=st.integers(16, 60_000), concurrency=st.integers(1, 64), gib=st.integers(20, 140))
def test_capacity_and_need_agree(ctx: int, concurrency: int, gib: int) -> None:
    """The asked concurrency fits the pool exactly if the card allows at least as much at once."""
    plan = vp.plan("7b", ctx=ctx, concurrency=concurrency, gpu=f"custom:{gib}GiB")
    assert plan.capacity is not None

    in_pool = plan.part("kv_cache").n_bytes <= plan.capacity.kv_pool_bytes
    assert in_pool == (plan.capacity.max_concurrency >= concurrency)
    assert in_pool == (plan.capacity.max_context >= ctx)
