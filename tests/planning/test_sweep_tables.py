"""A sweep by an engine's table equals the plan in every cell: over engines, options, models and cards."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.planning.cells import equals_the_plan

import vram_planner as vp
from vram_planner.engines.register import ENGINES, TABLES, engine
from vram_planner.engines.tables import Axes, Row
from vram_planner.hardware_profiles import all_gpus
from vram_planner.model_profiles.resolve import model_names, resolve

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from vram_planner.engines.base import Ask, Memory

pytest.importorskip("numpy")

NAMES = list(model_names())
GGUF = ("llama.cpp", "ollama")
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
    lambda name: st.tuples(st.just(name), st.fixed_dictionaries({}, optional=OPTIONS[name]))
)


def _quants(name: str) -> list[str | None]:
    return ["q4_k_m", "q8_0", "bf16"] if name in GGUF else [None, "awq", "fp8"]


def _compare(
    name: str, model: str, gpus: list[str], cells: tuple[list[int], list[int]], options: dict[str, Any]
) -> None:
    quant, speed = options.pop("quant", None), options.pop("speed", False)
    table = vp.sweep(
        models=[model],
        gpus=gpus,
        ctx=cells[0],
        concurrency=cells[1],
        quants=[quant],
        engine=name,
        speed=speed,
        **options,
    )
    rows = iter(table.to_rows())
    for gpu in gpus:
        for length in cells[0]:
            for count in cells[1]:
                equals_the_plan(next(rows), model, quant, gpu, (length, count), engine=name, **options)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    asked=ASKED,
    model=st.one_of(st.sampled_from(UNLIKE), st.sampled_from(NAMES)),
    gpus=st.lists(st.sampled_from(CARDS), min_size=1, max_size=3, unique=True),
    ctx=st.lists(st.integers(1, 200_000), min_size=1, max_size=3, unique=True),
    concurrency=st.lists(st.integers(1, 300), min_size=1, max_size=3, unique=True),
    quant=st.integers(0, 2),
    speed=st.booleans(),
)
def test_each_cell_equals_the_plan(
    *,
    asked: tuple[str, dict[str, Any]],
    model: str,
    gpus: list[str],
    ctx: list[int],
    concurrency: list[int],
    quant: int,
    speed: bool,
) -> None:
    name, options = asked
    # With indexers llama.cpp lays out every layer, of each slot: seconds a graph.
    assume(name not in GGUF or not resolve(model).architecture.indexers)
    named = {"quant": _quants(name)[quant], "speed": speed}
    _compare(name, model, gpus, (ctx, concurrency), {**options, **named})


@pytest.mark.parametrize("model", ["deepseek-ai/DeepSeek-V3.2-Exp", "MiniMaxAI/MiniMax-M3"])
def test_llama_cpp_with_indexers_equals_the_plan(model: str) -> None:
    _compare("llama.cpp", model, ["8x H200"], ([300, 5000], [1, 2]), {"quant": "q4_k_m"})


def test_every_table_is_an_engines() -> None:
    assert set(TABLES) <= set(ENGINES)


@pytest.mark.parametrize("name", TABLES)
def test_an_engine_with_a_table_is_asked_for_corners_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, asked = engine(name), []

    def memory(ask: Ask) -> Memory:
        asked.append(ask.workload)
        return type(chosen).memory(chosen, ask)

    monkeypatch.setattr(chosen, "memory", memory)
    cells = [1024, 2048, 4096, 8192], [1, 2, 4, 8]
    table = vp.sweep(
        models=["8b"], gpus=["RTX 4090"], ctx=cells[0], concurrency=cells[1], quants=_quants(name)[:1], engine=name
    )  # fmt: skip
    corners = [(work.context, work.concurrency) for work in asked]

    assert "refused" not in {row["verdict"] for row in table.rows()}
    # vLLM's column is one plan more: all that is no cache.
    assert set(corners) == {(1024, 1), (1024, 8), (8192, 1), (8192, 8)}
    assert len(corners) == (5 if name == "vllm" else 4)


@pytest.mark.parametrize("wrong", ["sums", "held", "nothing"])
@pytest.mark.parametrize("name", ["sglang", "llama.cpp"])
def test_a_table_that_is_wrong_at_a_corner_is_not_believed(
    name: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module(TABLES[name])
    right = module.rows

    def rows(ask: Ask, axes: Axes) -> list[Row] | None:
        found: list[Row] = right(ask, axes)
        last = found[-1]
        if wrong == "sums":
            found[-1] = Row(last.sums._replace(low=last.sums.low + 1), last.held)
        elif wrong == "held":
            found[-1] = Row(last.sums, lambda usable, total: last.held(usable, total) + 1)
        return None if wrong == "nothing" else found

    monkeypatch.setattr(module, "rows", rows)
    _compare(
        name, "8b", ["L4", "2x H100"], ([3000, 9000], [1, 7]), {"quant": _quants(name)[0], "speed": True}
    )
