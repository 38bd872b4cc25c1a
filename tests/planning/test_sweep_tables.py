"""A sweep by an engine's table equals the plan in every cell: over engines, options, models and cards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.planning.cells import equals_the_plan

import vram_planner as vp
from vram_planner.engines.register import ENGINES, TABLES
from vram_planner.hardware_profiles import all_gpus
from vram_planner.model_profiles.resolve import model_names

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

pytest.importorskip("numpy")

NAMES = list(model_names())
CARDS = [f"{count}x {gpu.name}" for gpu in all_gpus() for count in (1, 1, 2, 4, 8)]
# Hybrids, recurrent layers, latent attention, indexers, windows, chunks, experts, several streams, towers.
UNLIKE = [
    "8b",
    "Qwen/Qwen3-Next-80B-A3B-Instruct",
    "ai21labs/AI21-Jamba-1.5-Mini",
    "state-spaces/mamba-790m-hf",
    "nvidia/Nemotron-H-56B-Base-8K",
    "deepseek-ai/DeepSeek-V3",
    "deepseek-ai/DeepSeek-V3.2-Exp",
    "deepseek-ai/DeepSeek-V4-Pro",
    "google/gemma-3-27b-it",
    "openai/gpt-oss-20b",
    "meta-llama/Llama-4-Scout-17B-16E-Instruct",
    "Qwen/Qwen3-30B-A3B",
    "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "google/gemma-2-9b-it",
]
COMMON: dict[str, SearchStrategy[Any]] = {"gpu_memory_utilization": st.sampled_from([0.5, 0.95])}
OPTIONS: dict[str, dict[str, SearchStrategy[Any]]] = {
    "sglang": {
        **COMMON,
        "engine_version": st.sampled_from(["0.5.23", "0.5.10", "0.4.6"]),
        "kv_dtype": st.just("fp8"),
        "max_num_seqs": st.sampled_from([1, 64, 2000]),
        "max_num_batched_tokens": st.sampled_from([512, 16384]),
        "block_size": st.sampled_from([1, 64]),
        "pp": st.just(2),
        "dp": st.just(2),
        "dp_attention": st.just(value=True),
        "ep": st.just(value=True),
        "speculative": st.sampled_from(["mtp", "ngram"]),
        "max_loras": st.just(4),
        "max_lora_rank": st.just(16),
    },
    "tensorrt-llm": {
        **COMMON,
        "engine_version": st.sampled_from(["1.1", "0.13"]),
        "kv_dtype": st.just("fp8"),
        "max_num_seqs": st.sampled_from([1, 64, 2000]),
        "max_num_batched_tokens": st.sampled_from([512, 16384]),
        "block_size": st.sampled_from([16, 128]),
        "pp": st.just(2),
        "dp": st.just(2),
        "dp_attention": st.just(value=True),
        "speculative": st.sampled_from(["mtp", "ngram"]),
    },
    "llama.cpp": {
        "kv_dtype": st.sampled_from(["q8_0", "q8_0/q4_0", "bf16", "f32"]),
        "flash_attn": st.booleans(),
        "ubatch": st.sampled_from([64, 1000, 2048]),
        "slots": st.sampled_from([1, 3, 16]),
        "ngl": st.sampled_from([0, 5, 20]),
        "n_cpu_moe": st.just(4),
        "kv_unified": st.just(value=True),
        "swa_full": st.just(value=True),
        "kv_offload": st.just(value=False),
        "split_mode": st.just("none"),
        "tensor_split": st.just("3,1"),
    },
    "ollama": {
        "kv_dtype": st.sampled_from(["q8_0"]),
        "flash_attn": st.booleans(),
        "ubatch": st.sampled_from([64, 2048]),
        "slots": st.sampled_from([1, 3]),
        "ngl": st.sampled_from([0, 5, 20]),
    },
    "transformers": {
        "attn": st.sampled_from(["sdpa", "eager", "flash_attention_2"]),
        "cache": st.sampled_from(["dynamic", "static"]),
        "logits": st.sampled_from(["last", "all", "float32"]),
        "padded": st.booleans(),
        "offload": st.just(value=True),
        "dp": st.just(2),
    },
    "vllm": {
        **COMMON,
        "max_num_seqs": st.sampled_from([1, 64]),
        "kv_cache_memory": st.just(8 << 30),
        "prefix_caching": st.booleans(),
        "pp": st.sampled_from([2, 3]),
        "cpu_offload": st.just(1 << 30),
        "max_loras": st.just(2),
        "max_lora_rank": st.just(16),
    },
}
ASKED = st.sampled_from([*TABLES, "ollama"]).flatmap(
    lambda engine: st.tuples(st.just(engine), st.fixed_dictionaries({}, optional=OPTIONS[engine]))
)


def _quants(engine: str) -> list[str | None]:
    return ["q4_k_m", "q8_0", "bf16"] if engine in ("llama.cpp", "ollama") else [None, "awq", "fp8"]


def _compare(
    engine: str, model: str, gpus: list[str], cells: tuple[list[int], list[int]], options: dict[str, Any]
) -> None:
    quant = options.pop("quant", None)
    table = vp.sweep(
        models=[model],
        gpus=gpus,
        ctx=cells[0],
        concurrency=cells[1],
        quants=[quant],
        engine=engine,
        **options,
    )
    rows = iter(table.to_rows())
    for gpu in gpus:
        for length in cells[0]:
            for count in cells[1]:
                equals_the_plan(next(rows), model, quant, gpu, (length, count), engine=engine, **options)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    asked=ASKED,
    model=st.one_of(st.sampled_from(UNLIKE), st.sampled_from(NAMES)),
    gpus=st.lists(st.sampled_from(CARDS), min_size=1, max_size=3, unique=True),
    ctx=st.lists(st.integers(1, 200_000), min_size=1, max_size=3, unique=True),
    concurrency=st.lists(st.integers(1, 300), min_size=1, max_size=3, unique=True),
    quant=st.integers(0, 2),
)
def test_each_cell_equals_the_plan(
    *,
    asked: tuple[str, dict[str, Any]],
    model: str,
    gpus: list[str],
    ctx: list[int],
    concurrency: list[int],
    quant: int,
) -> None:
    engine, options = asked
    _compare(engine, model, gpus, (ctx, concurrency), {**options, "quant": _quants(engine)[quant]})


def test_every_table_is_an_engines() -> None:
    assert set(TABLES) <= set(ENGINES)
