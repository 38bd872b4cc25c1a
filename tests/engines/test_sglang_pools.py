"""SGLang's pools by kind of layer: hand-computed, and against public start-up logs (sglang_pools.jsonl names each)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vram_planner as vp
from vram_planner.architecture.parallel import Layout
from vram_planner.architecture.precision import plain
from vram_planner.engines.base import Ask, Device, Options, Workload
from vram_planner.engines.sglang import Sglang
from vram_planner.engines.sglang_pool import Pool, fullest
from vram_planner.engines.sglang_state import States
from vram_planner.errors import PlannerError, UnsupportedArchitectureError
from vram_planner.units import GIB

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parent.parent / "oracles" / "sglang_pools.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()
]
V4_PRO_015 = (
    13735.04  # "bytes_per_full_token" of 0.5.15 at --swa-full-tokens-ratio 0.15: a public repository file
)


def ask_for(
    model: str,
    *,
    workload: Workload | None = None,
    tp: int = 1,
    capability: tuple[int, int] = (9, 0),
    **options: Any,
) -> Ask:
    return Ask(
        architecture=vp.load_architecture(model),
        precision=plain("bfloat16"),
        workload=workload or Workload(context=8192, concurrency=16, prompt_tokens=4096),
        layout=Layout(tp=tp),
        options=Options(**options),
        device=Device(name="card", total_bytes=180 * GIB, compute_capability=capability),
    )


def pool_of(row: dict[str, Any]) -> Pool:
    ask = ask_for(
        row["model"],
        tp=row["tp"],
        capability=tuple(row.get("capability", (9, 0))),
        version=row["version"],
        kv_dtype=row["kv_dtype"],
    )
    return fullest(ask).pool


def cell(model: str, **options: Any) -> int:
    return fullest(ask_for(model, **options)).pool.cells.cell_bytes


def rows(key: str) -> list[Any]:
    return [pytest.param(row, id=row["id"]) for row in ROWS if row.get(key)]


@pytest.mark.parametrize("row", rows("slots"))
def test_logged_slots_take_the_logged_bytes(row: dict[str, Any]) -> None:
    """(max_mamba_cache_size + 1) slots = conv_state + ssm_state; tolerance: the two decimals of each."""
    states = pool_of(row).states
    assert states is not None

    assert (row["slots"] + 1) * states.slot_bytes / GIB == pytest.approx(row["state_gib"], abs=0.011)


@pytest.mark.parametrize("row", rows("kv_gib"))
def test_logged_tokens_take_the_logged_bytes(row: dict[str, Any]) -> None:
    """#tokens × our bytes a token = the logged K and V size; tolerance: the two decimals of each."""
    assert row["tokens"] * pool_of(row).cells.cell_bytes / GIB == pytest.approx(row["kv_gib"], abs=0.011)


@pytest.mark.parametrize("row", rows("shared"))
def test_the_logged_pool_is_shared_as_the_log_says(row: dict[str, Any]) -> None:
    """Of the budget that both logged pools make, 9/19 go to slots and the rest to tokens: each to the last one."""
    pool = pool_of(row)
    assert pool.states is not None
    budget = (row["slots"] + pool.states.spare) * pool.states.slot_bytes + pool.cells.n_bytes(row["tokens"])

    assert pool.states.slots(budget) == row["slots"]
    assert pool.tokens(budget) == row["tokens"]


@pytest.mark.parametrize("row", rows("cell_bytes"))
def test_logged_cells_of_a_window_pool(row: dict[str, Any]) -> None:
    """Full layers and 0.8 of the sliding ones, whose heads differ: exact."""
    assert pool_of(row).cells.cell_bytes == row["cell_bytes"]


def test_logged_cells_of_compressed_entries() -> None:
    """
    DeepSeek-V4-Pro, 61 layers, 30 of stride 4 and 31 of 128: 13,735.04 B a token at a ratio of 0.15, which we have at 0.1.

    The difference is 0.05 window tokens: 61 · 584 + 30 · 8/128 · (4 · 512 + 4 · 128) · 4 B. Tolerance: a hundredth.
    """
    cells = fullest(ask_for("deepseek-ai/DeepSeek-V4-Pro", version="0.5.15")).pool.cells
    window = 61 * 584 + 30 * 8 / 128 * (4 * 512 + 4 * 128) * 4

    assert cells.unit_bytes / cells.unit + 0.05 * window == pytest.approx(V4_PRO_015, abs=0.01)


def test_compressed_entries_of_the_newest_release() -> None:
    """
    V4-Flash, 43 layers, 21 of stride 4, 20 of 128: pages padded to 576 B, a tenth of the tokens in the window's pool.

    Pages of 256, 64 and 2 rows of 584 B: 149,760, 37,440 and 1,728 B. Waiting rows for 256 requests, and two rings more.
    """
    cells = fullest(ask_for("deepseek-ai/DeepSeek-V4-Flash")).pool.cells
    window = 43 * 149_760 + 21 * 8 * 4 * (512 + 128) * 4
    entries = 21 * (37_440 + 64 * 132) + 20 * 1_728

    assert (cells.unit_bytes, cells.unit, cells.page) == (window + 10 * entries, 2560, 256)
    assert cells.fixed_bytes == 20 * (259 * 128) * 2 * 512 * 4
    assert cells.slots(100_000) == 100_096  # 391 pages
    assert cells.slots(100) == 2560  # a tenth of it holds the one page of the window


def test_blackwell_packs_the_rows_of_v4_otherwise() -> None:
    """528 B a row, pages padded to 512: 256 rows are 135,168 B, 64 rows 33,792, 2 rows 1,536."""
    cells = fullest(ask_for("deepseek-ai/DeepSeek-V4-Flash", capability=(10, 0))).pool.cells
    window = 43 * 135_168 + 21 * 8 * 4 * (512 + 128) * 4

    assert cells.unit_bytes == window + 10 * (21 * (33_792 + 64 * 132) + 20 * 1_536)


def test_v4_is_whole_on_every_rank() -> None:
    one, four = (fullest(ask_for("deepseek-ai/DeepSeek-V4-Flash", tp=tp)).pool for tp in (1, 4))

    assert one.cells == four.cells
    assert four.replicated == 4


def test_state_of_a_gated_delta_net() -> None:
    """
    Qwen3-Next at tp 4, 36 layers: conv (2 · 16 · 128 + 32 · 128)/4 · 3 · 2 B, state 32/4 · 128 · 128 · 4 B.

    5 slots a request since 0.5.15 (extra_buffer), 3 before.
    """
    new, old = (
        fullest(ask_for("Qwen/Qwen3-Next-80B-A3B-Instruct", tp=4, version=version)).pool.states
        for version in (None, "0.5.8")
    )

    assert new == States(
        slot_bytes=36 * (2048 * 3 * 2 + 8 * 128 * 128 * 4), per_request=5, spare=1, running=1
    )
    assert old is not None
    assert (old.per_request, old.spare) == (3, 0)


def test_attention_of_a_hybrid_costs_its_own_layers_only() -> None:
    """Qwen3-Next: 12 of 48 layers, 2 KV heads of 256, copied at tp 4: 1 · 512 · 2 B each."""
    assert cell("Qwen/Qwen3-Next-80B-A3B-Instruct", tp=4) == 12 * 512 * 2


def test_parts_of_a_hybrid_are_the_smallest_budget_that_holds_the_workload() -> None:
    """16 requests: 80 slots and a spare one are 9/19 of the budget, though the tokens need less than the rest."""
    memory = Sglang().memory(ask_for("Qwen/Qwen3-Next-80B-A3B-Instruct", tp=4))
    states = fullest(ask_for("Qwen/Qwen3-Next-80B-A3B-Instruct", tp=4)).pool.states
    assert states is not None
    budget = memory.bytes_of("kv_cache", "recurrent_state")

    assert memory.bytes_of("recurrent_state") == 81 * states.slot_bytes
    assert states.requests(budget) == 16
    assert states.requests(budget - 1) == 15
    assert memory.kv.bytes_per_request == 8192 * 12 * 512 * 2


def test_another_share_is_told_where_it_saves_a_gibibyte() -> None:
    """Qwen3.5-27B at 16 requests: 81 slots of states, whose 10/9 is more than the tokens use."""
    ask = ask_for("Qwen/Qwen3.5-27B")
    states, cells = fullest(ask).pool.states, fullest(ask).pool.cells
    assert states is not None
    share = 81 * states.slot_bytes / (16 * cells.n_bytes(8192))

    assert f"--mamba-full-memory-ratio {share:.3g} would need" in Sglang().memory(ask).warnings[0]
    assert not Sglang().memory(ask_for("Qwen/Qwen3-Next-80B-A3B-Instruct", tp=4)).warnings


def test_a_model_of_states_alone_is_bound_by_its_slots() -> None:
    """Mamba-2.8B: 64 layers of conv 5120 · 3 · 2 B and state 5120 · 16 · 4 B; tokens cost nothing and are asked for."""
    engine, ask = Sglang(), ask_for("state-spaces/mamba-2.8b-hf")
    memory = engine.memory(ask)
    capacity = engine.capacity(ask, memory)
    states = fullest(ask).pool.states
    assert states is not None

    assert states.slot_bytes == 64 * 5120 * (3 * 2 + 16 * 4)
    assert capacity.max_concurrency == states.slots(capacity.kv_pool_bytes) // 3
    assert capacity.kv_cache_tokens == capacity.max_concurrency * 8192
    assert f"--max-total-tokens {16 * 8192}" in memory.launch


def test_rows_of_sparse_attention_by_card_and_release() -> None:
    """DeepSeek-V3.2, 61 layers: bfloat16 576 · 2 on Hopper, 656 in FP8, 576 on Blackwell since 0.5.15; keys of 132 B."""
    name = "deepseek-ai/DeepSeek-V3.2"

    assert cell(name) == 61 * (1152 + 132)
    assert cell(name, kv_dtype="fp8") == 61 * (656 + 132)
    assert cell(name, capability=(10, 0)) == 61 * (576 + 132)
    assert cell(name, capability=(10, 0), version="0.5.8") == 61 * (656 + 132)
    assert cell(name, capability=(10, 0), kv_dtype="bfloat16") == 61 * (1152 + 132)
    assert fullest(ask_for(name)).pool.cells.page == 64


def test_layers_that_share_a_choice_keep_no_keys_since_0_5_19() -> None:
    """GLM-5.2: 78 layers, 21 of which choose for themselves."""
    name = "nvidia/GLM-5.2-NVFP4"
    chooses = sum(count for _, count in vp.load_architecture(name).indexers)

    assert chooses == 21
    assert cell(name) == 78 * 1152 + chooses * 132
    assert cell(name, version="0.5.15") == 78 * (1152 + 132)


def test_keys_of_block_sparse_attention_are_as_wide_as_the_model() -> None:
    """MiniMax-M3 at tp 4: 60 layers of one head, 2 · 128 · 2 B, 57 of them with a key of 128 · 2 B; pages of 128."""
    cells = fullest(ask_for("MiniMaxAI/MiniMax-M3", tp=4)).pool.cells

    assert cells.cell_bytes == 60 * 2 * 128 * 2 + 57 * 128 * 2
    assert cells.page == 128


def test_chunked_layers_have_the_pool_of_sliding_ones() -> None:
    """Llama 4 Scout at tp 8: 12 full and 36 chunked layers of 1 · 2 · 128 · 2 B, these at 0.8; before 0.5.8 all in full."""
    name = "meta-llama/Llama-4-Scout-17B-16E-Instruct"
    cells = fullest(ask_for(name, tp=8)).pool.cells

    assert (cells.unit_bytes, cells.unit, cells.window) == ((5 * 12 + 4 * 36) * 512, 5, 8192)
    assert cell(name, tp=8, version="0.5.5") == 48 * 512


def test_an_image_takes_slots_of_every_layer() -> None:
    """Llama 3.2 Vision 11B: 6,404 tokens of an image beside the context, in all 40 layers of 8 · 2 · 128 · 2 B."""
    cells = fullest(ask_for("meta-llama/Llama-3.2-11B-Vision-Instruct")).pool.cells

    assert cells.cell_bytes == 40 * 4096
    assert cells.slots(8192) == 8192 + 6404


def test_layers_that_borrow_keep_rows_of_their_own() -> None:
    """Gemma 4 E2B: 7 full layers of 2 · 512 · 2 B and 28 sliding ones of 2 · 256 · 2 B at 0.8, whoever lends."""
    cells = fullest(ask_for("google/gemma-4-E2B-it")).pool.cells

    assert cells.unit_bytes == 5 * 7 * 2048 + 4 * 28 * 1024


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        ("ai21labs/AI21-Jamba-1.5-Mini", {}, "no state pool for 'jamba'"),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", {"version": "0.5.2"}, "no state pool for 'qwen3_next'"),
        ("deepseek-ai/DeepSeek-V3.2", {"version": "0.5.2"}, "no models with an indexer"),
        ("deepseek-ai/DeepSeek-V4-Flash", {"version": "0.5.12"}, "pools of deepseek_v4"),
    ],
)
def test_what_a_release_does_not_run_is_refused(model: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedArchitectureError, match=reason) as caught:
        Sglang().memory(ask_for(model, **options))

    assert "--engine" in caught.value.hint


def test_a_cache_that_sparse_attention_cannot_have_is_refused() -> None:
    with pytest.raises(PlannerError, match="fp8_e5m2"):
        Sglang().memory(ask_for("deepseek-ai/DeepSeek-V3.2", kv_dtype="fp8_e5m2"))


@given(
    states=st.builds(
        States,
        slot_bytes=st.integers(1, 10**8),
        per_request=st.sampled_from([3, 5]),
        spare=st.sampled_from([0, 1]),
    ),
    requests=st.integers(1, 500),
    tokens=st.integers(0, 10**11),
    more=st.integers(0, 10**9),
)
def test_from_the_least_budget_on_states_and_tokens_have_room(
    states: States, requests: int, tokens: int, more: int
) -> None:
    budget = states.least_budget(requests, tokens)

    assert states.requests(budget + more) >= requests
    assert budget + more - states.taken(budget + more) >= tokens


MODELS = st.sampled_from(
    [
        "Qwen/Qwen3-Next-80B-A3B-Instruct",
        "moonshotai/Kimi-Linear-48B-A3B-Instruct",
        "deepseek-ai/DeepSeek-V4-Flash",
        "meta-llama/Llama-4-Scout-17B-16E-Instruct",
        "meta-llama/Llama-3.2-11B-Vision-Instruct",
        "deepseek-ai/DeepSeek-V3.2",
        "google/gemma-4-26B-A4B",
    ]
)


@settings(max_examples=60, deadline=None)
@given(model=MODELS, context=st.integers(1, 100_000), batch=st.integers(1, 64))
def test_what_fits_the_pool_is_held_at_once(model: str, context: int, batch: int) -> None:
    """A need that fits is held; what is not held does not fit. Between them lies at most one state."""
    engine = Sglang()
    ask = ask_for(model, tp=8, workload=Workload(context=context, concurrency=batch, prompt_tokens=1))
    memory = engine.memory(ask)
    capacity = engine.capacity(ask, memory)
    pool = fullest(ask).pool
    slack = 0 if pool.states is None else pool.states.slot_bytes
    need = memory.bytes_of("kv_cache", "recurrent_state")

    if need <= capacity.kv_pool_bytes:
        assert capacity.max_concurrency >= batch
        assert capacity.max_context >= context
    elif need - slack > capacity.kv_pool_bytes:
        assert capacity.max_concurrency < batch
