"""The SGLang engine against public start-up logs (each row of sglang_logs.jsonl names its thread) and its own rules."""

from __future__ import annotations

import json
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.architecture import storage
from vram_planner.architecture.parallel import Layout
from vram_planner.architecture.precision import FORMATS, Precision, plain, quantised
from vram_planner.engines.base import Ask, Device, Options, Workload
from vram_planner.engines.sglang import Sglang
from vram_planner.engines.sglang_defaults import Setup, defaults_for, prefill_graph_sizes, profile_of
from vram_planner.errors import ParallelError, RequestError
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.units import GIB, MIB

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture

ORACLES = Path(__file__).parent.parent / "oracles"
LOGS = [json.loads(line) for line in (ORACLES / "sglang_logs.jsonl").read_text(encoding="utf-8").splitlines()]
FORMAT_OF = {"fp8": "fp8-block", "gptq": "gptq"}
H100 = Device(name="H100", total_bytes=int(79.19 * GIB))


def architecture(config: str | dict[str, Any]) -> Architecture:
    data = config
    if isinstance(data, str):
        data = json.loads((ORACLES / "configs" / f"{data}.json").read_text(encoding="utf-8"))
    assert isinstance(data, dict)
    return architecture_from_config(
        {key: value for key, value in data.items() if key != "quantization_config"}
    )


def precision(quantization: str | None) -> Precision:
    if quantization is None:
        return plain("bfloat16")
    name = FORMAT_OF[quantization]
    return quantised(name, storage.BFLOAT16, *FORMATS[name])


def ask_of(row: dict[str, Any]) -> Ask:
    return Ask(
        architecture=architecture(row["config"]),
        precision=precision(row["quantization"]),
        workload=Workload(context=4096, concurrency=1, prompt_tokens=2048),
        layout=Layout(tp=row["tp"]),
        options=Options(gpu_memory_utilization=row["mem_fraction_static"]),
        device=H100,
    )


def ask_for(
    name: str = "Llama-3.1-8B",
    *,
    workload: Workload | None = None,
    layout: Layout | None = None,
    **options: Any,
) -> Ask:
    return Ask(
        architecture=architecture(name),
        precision=plain("bfloat16"),
        workload=workload or Workload(context=8192, concurrency=16, prompt_tokens=4096),
        layout=layout or Layout(),
        options=Options(**options),
        device=H100,
    )


def row_id(row: dict[str, Any]) -> str:
    return str(row["id"])


@pytest.mark.parametrize("row", [row for row in LOGS if row["tokens"] and row["kv_gib"]], ids=row_id)
def test_bytes_a_token_are_those_of_the_log(row: dict[str, Any]) -> None:
    """Tokens × our bytes a token = logged K + V size; tolerance: the two logged decimals of each."""
    ours = row["tokens"] * Sglang().memory(ask_of(row)).kv.bytes_per_token / GIB

    assert ours == pytest.approx(row["kv_gib"], abs=0.011)


@pytest.mark.parametrize("row", [row for row in LOGS if row["tokens"] and row["free_gib"]], ids=row_id)
def test_tokens_follow_from_the_logged_load(row: dict[str, Any]) -> None:
    """(fraction × free − load) / bytes a token, from the log's own load: 1.2 % (2 decimals of a pool of 3 GiB)."""
    pool = row["mem_fraction_static"] * row["free_gib"] - row["load_gib"]
    ours = int(pool * GIB) // Sglang().memory(ask_of(row)).kv.bytes_per_token

    assert ours == pytest.approx(row["tokens"], rel=0.012)


@pytest.mark.parametrize("row", [row for row in LOGS if row["load_gib"]], ids=row_id)
def test_load_is_our_weights_and_the_slack_of_the_band(row: dict[str, Any]) -> None:
    """The logged load is a difference of free memory: tensors and 0.02 to 0.28 GiB beside them."""
    memory = Sglang().memory(ask_of(row))

    assert 0.0 <= row["load_gib"] - memory.bytes_of("weights") / GIB <= 0.29


@pytest.mark.parametrize(
    ("version", "total_mib", "tp", "fraction"),
    [
        ("0.3.0", 81559, 8, 0.83),  # logged: issue 1386
        ("0.4.7.post1", 81559, 1, 0.874),  # logged: issue 7495
        ("0.4.3.post2", 81559, 8, 0.81),
        ("0.5.2", 81559, 1, 0.874),  # the tiers go on to 0.5.2: 9.5 + 0.5 GiB
        ("0.5.3", 81559, 1, 0.835),
        ("0.5.5", 81559, 1, 0.835),  # 512 + 1.5 · 8192 + 1024 / 8 + 2 · 256 = 13,440 MiB
        ("0.5.5", 24564, 1, 0.847),  # 512 + 1.5 · 2048 + 1024 / 8 + 2 · 24 = 3,760 MiB
    ],
)
def test_default_fraction_by_release(version: str, total_mib: int, tp: int, fraction: float) -> None:
    found = defaults_for(version, total_mib * MIB, Setup(tp=tp, chunk=None, running=None, mla=False))

    assert found.fraction == pytest.approx(fraction, abs=0.0005)


def test_prefill_graphs_take_their_share_of_the_newest_reserve() -> None:
    """58 sizes up to 8192 tokens, 8 MiB each; MLA takes 1.5 GiB instead."""
    assert prefill_graph_sizes(8192) == len(
        [*range(4, 33, 4), *range(48, 257, 16), *range(288, 513, 32), *range(576, 1025, 64)]
    ) + len([*range(1280, 4097, 256), *range(4608, 8193, 512)])
    plain_model, latent = (
        defaults_for(None, 81559 * MIB, Setup(tp=1, chunk=None, running=None, mla=mla))
        for mla in (False, True)
    )
    assert latent.fraction < plain_model.fraction < 0.835


def test_a_short_chunk_and_few_requests_leave_more_to_the_pool() -> None:
    full = defaults_for(None, 24 * GIB, Setup(tp=1, chunk=None, running=None, mla=False))
    small = defaults_for(None, 24 * GIB, Setup(tp=1, chunk=2048, running=8, mla=False))

    assert (full.chunk, full.graph_batch) == (4096, 48)
    assert (small.chunk, small.graph_batch) == (2048, 8)
    assert full.fraction < small.fraction


def test_versions_choose_the_newest_profile_that_is_not_newer() -> None:
    assert profile_of("v0.4.7.post1")["title"] == "0.4.7 to 0.5.2"
    assert profile_of("0.4.6")["title"] == "0.4 to 0.4.3"
    assert profile_of(None)["version"] == "0.5.23"
    with pytest.raises(RequestError, match=r"0\.1"):
        profile_of("0.1")
    with pytest.raises(RequestError, match="newest"):
        profile_of("newest")


def test_mla_is_whole_on_every_rank() -> None:
    memory = Sglang().memory(ask_for("DeepSeek-V3", layout=Layout(tp=8)))

    assert memory.kv.bytes_per_token == 61 * 576 * 2
    assert memory.kv.replicated_ranks == 8


def test_few_kv_heads_are_replicated() -> None:
    four, eight = (Sglang().memory(ask_for("Qwen3-30B-A3B", layout=Layout(tp=tp))).kv for tp in (4, 8))

    assert four.bytes_per_token == eight.bytes_per_token == 48 * 2 * 128 * 2
    assert (four.replicated_ranks, eight.replicated_ranks) == (1, 2)


def test_fp8_cache_halves_the_bytes() -> None:
    whole, half = Sglang().memory(ask_for()), Sglang().memory(ask_for(kv_dtype="fp8"))

    assert whole.kv.n_bytes == 2 * half.kv.n_bytes
    assert "--kv-cache-dtype fp8_e4m3" in half.launch
    with pytest.raises(RequestError, match="q8_0"):
        Sglang().memory(ask_for(kv_dtype="q8_0"))


def test_a_window_pool_counts_sliding_layers_at_four_fifths() -> None:
    """gpt-oss-20b: 12 full and 12 sliding layers of 8 × (64 + 64) × 2 B; 12 + 0.8 · 12 of them a token."""
    layer = 8 * 128 * 2
    newest, older = (Sglang().memory(ask_for("gpt-oss-20b", version=version)) for version in (None, "0.5.5"))

    assert newest.kv.bytes_per_token == ceil((12 + 0.8 * 12) * layer)
    assert older.kv.bytes_per_token == 24 * layer


def test_gemma_3_keeps_every_token() -> None:
    """Its architecture is not on SGLang's list of hybrid window models."""
    memory = Sglang().memory(ask_for("gemma-3-1b"))

    assert memory.kv.bytes_per_token == 26 * 2 * 256 * 2


def test_an_impossible_tensor_parallel_is_refused() -> None:
    with pytest.raises(ParallelError, match="tensor parallel 3"):
        Sglang().memory(ask_for(layout=Layout(tp=3)))
    with pytest.raises(ParallelError, match="pipeline"):
        Sglang().memory(ask_for(layout=Layout(pp=33)))


def test_a_fraction_that_starves_the_forward_is_warned_of() -> None:
    assert not Sglang().memory(ask_for()).warnings
    assert Sglang().memory(ask_for(gpu_memory_utilization=0.99)).warnings


def test_budget_holds_weights_cache_and_the_loads_slack_only() -> None:
    memory = Sglang().memory(ask_for())
    inside = {part.name: part.budgeted_bytes for part in memory.parts}

    assert inside["weights"] == memory.bytes_of("weights")
    assert inside["kv_cache"] == memory.bytes_of("kv_cache")
    assert inside["activations"] == inside["cuda_graphs"] == 0
    assert inside["runtime"] == pytest.approx(0.1 * GIB, abs=1)


def test_capacity_needs_a_card() -> None:
    engine, ask = Sglang(), ask_for()

    with pytest.raises(RequestError, match="needs a card"):
        engine.capacity(replace(ask, device=None), engine.memory(ask))


NAMES = st.sampled_from(["Llama-3.1-8B", "Qwen3-8B", "DeepSeek-V2-Lite", "gpt-oss-20b", "gemma-3-1b"])


@given(
    name=NAMES, context=st.integers(1, 40_000), batch=st.integers(1, 64), page=st.sampled_from([None, 16, 64])
)
def test_capacity_agrees_with_the_need(name: str, context: int, batch: int, page: int | None) -> None:
    """The asked cache fits the pool exactly when the pool holds that many at once."""
    engine = Sglang()
    ask = ask_for(
        name, workload=Workload(context=context, concurrency=batch, prompt_tokens=1), block_size=page
    )
    memory = engine.memory(ask)
    capacity = engine.capacity(ask, memory)

    assert (memory.kv.n_bytes <= capacity.kv_pool_bytes) == (capacity.max_concurrency >= batch)
    assert (capacity.max_context >= context) == (capacity.max_concurrency >= batch)
    assert capacity.kv_cache_tokens % (page or 1) == 0


@given(name=NAMES, context=st.integers(1, 100_000), batch=st.integers(1, 300))
def test_more_never_costs_less_and_bands_hold_the_figure(name: str, context: int, batch: int) -> None:
    def memory_of(tokens: int, requests: int) -> Any:
        return Sglang().memory(
            ask_for(name, workload=Workload(context=tokens, concurrency=requests, prompt_tokens=1))
        )

    here = memory_of(context, batch)

    assert here.kv.n_bytes <= memory_of(context + 1, batch).kv.n_bytes
    assert here.kv.n_bytes <= memory_of(context, batch + 1).kv.n_bytes
    for part in here.parts:
        assert 0 <= part.low <= part.n_bytes <= part.high
        assert part.source.startswith("https://")
        assert part.detail


@given(tp=st.sampled_from([1, 2, 4, 8]))
def test_more_ranks_never_need_more_weight_each(tp: int) -> None:
    one, more = (Sglang().memory(ask_for(layout=Layout(tp=ranks))) for ranks in (tp, 2 * tp))

    assert more.bytes_of("weights") < one.bytes_of("weights")
