"""Speculation and LoRA in SGLang, against public logs (oracles/sglang_drafting.jsonl) and the rules of its source."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.engines.test_sglang_pools import ask_for

import vram_planner as vp
from vram_planner.engines.sglang import Sglang
from vram_planner.engines.sglang_defaults import profile_of
from vram_planner.engines.sglang_draft import draft_parts, drafted, reserve_gib, steps_of
from vram_planner.engines.sglang_lora import lora_parts
from vram_planner.engines.sglang_pool import fullest
from vram_planner.engines.sglang_state import States
from vram_planner.errors import PlannerError
from vram_planner.units import GIB

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parent.parent / "oracles" / "sglang_drafting.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()
]
LLAMA = "meta-llama/Meta-Llama-3-8B"


def with_head(model: str, **options: Any) -> Any:
    """A start with one more layer of the model's own shape as its EAGLE head."""
    ask = ask_for(model, **options)
    return replace(ask, draft=replace(ask.architecture, layers=ask.architecture.layers[:1]))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["model"])
def test_rows_of_the_target_and_of_the_draft_are_as_logged(row: dict[str, Any]) -> None:
    """Tolerance: the last of the two decimals of the log."""
    make = with_head if row["method"] == "eagle" else ask_for
    cells = fullest(make(row["model"], speculative=row["method"], max_num_seqs=4)).pool.cells
    target = cells.unit_bytes - cells.draft_bytes

    assert cells.split
    assert target * (row["tokens"] + 1) / 2 / GIB == pytest.approx(row["k_gb"], abs=0.01)
    assert cells.draft_bytes * (row["tokens"] + 1) / 2 / GIB == pytest.approx(row["draft_k_gb"], abs=0.01)


@pytest.mark.parametrize(("version", "counted"), [("0.5.9", 32), ("0.5.13", 32), ("0.5.14", 33), (None, 33)])
def test_rows_of_the_draft_are_counted_since_0_5_14(version: str | None, counted: int) -> None:
    """Source: DefaultPoolConfigurator.__init__, pool_configurator.py; before, the pool was sized by the target alone."""
    cells = fullest(with_head(LLAMA, speculative="eagle", version=version)).pool.cells

    assert (cells.counted_bytes or cells.unit_bytes) == counted * 2 * 8 * 128 * 2
    assert cells.unit_bytes == 33 * 2 * 8 * 128 * 2


def test_a_smaller_draft_is_counted_as_the_targets_own_layers() -> None:
    """Llama-3.2-1B beside Llama-3.1-8B: 16 layers of 8 heads of 64, counted as 16 of 8 heads of 128."""
    ask = ask_for("meta-llama/Llama-3.1-8B-Instruct", speculative="draft")
    cells = fullest(replace(ask, draft=vp.load_architecture("meta-llama/Llama-3.2-1B-Instruct"))).pool.cells

    assert cells.unit_bytes == (32 * 128 + 16 * 64) * 2 * 8 * 2
    assert cells.counted_bytes == (32 + 16) * 128 * 2 * 8 * 2


@pytest.mark.parametrize(
    ("version", "method", "gib"),
    [
        ("0.4.8", "mtp", 2.0),
        ("0.5.3", "draft", 6.0),
        ("0.5.9", "mtp", 2.0),
        ("0.5.10", "mtp", 4.0),
        ("0.5.13", "draft", 6.0),
        ("0.5.14", "mtp", 0.0),
        (None, "draft", 0.0),
    ],
)
def test_what_the_default_fraction_keeps_back_for_drafting(
    version: str | None, method: str, gib: float
) -> None:
    """Source: ServerArgs._handle_gpu_memory_settings of those releases, server_args.py. Tolerance: none."""
    ask = ask_for("deepseek-ai/DeepSeek-V3", tp=8, version=version, speculative=method)

    assert reserve_gib(ask, profile_of(version)) == gib


def test_the_copies_of_embedding_and_head_count_while_the_pool_is_sized() -> None:
    """
    DeepSeek-V3's layer for MTP on one of eight ranks, and 129,280 / 8 rows of 7,168 numbers twice.

    Source: EagleDraftWorker.init_lm_head frees them after the pools are made (issue 36452); before 0.5.14 the draft was
    loaded after the target's pool was sized. Tolerance: none.
    """
    newest, before = (
        draft_parts(ask_for("deepseek-ai/DeepSeek-V3", tp=8, version=version, speculative="mtp"))[0]
        for version in (None, "0.5.12")
    )
    tables = 2 * 129_280 // 8 * 7168 * 2

    assert newest.n_bytes - newest.low == tables
    assert newest.in_budget
    assert before.n_bytes == newest.low
    assert not before.in_budget


@pytest.mark.parametrize(
    ("model", "options", "steps"),
    [
        (LLAMA, {"speculative": "eagle"}, (5, 4, 8)),
        ("Qwen/Qwen3-8B", {"speculative": "eagle"}, (3, 1, 4)),
        (LLAMA, {"speculative": "draft"}, (3, 1, 4)),
        (LLAMA, {"speculative": "ngram"}, (12, 1, 12)),
        (LLAMA, {"speculative": "eagle", "speculative_tokens": 2}, (2, 1, 3)),
    ],
)
def test_steps_that_nobody_set(model: str, options: dict[str, Any], steps: tuple[int, int, int]) -> None:
    """Source: auto_choose_speculative_params, arg_groups/speculative_hook.py of 0.5.23."""
    assert steps_of(ask_for(model, **options)) == steps
    assert drafted(ask_for(model, **options)) == steps[2]


def test_states_of_drafted_tokens_are_solved_with_the_slots() -> None:
    """
    19 GB, slots of 1 MB, 5 drafted tokens, 5 slots a request: 9,000 MB − 6 MB for one more request, over 2 MB a slot.

    Source: KVCacheConfigurator._calculate_mamba_ratio, mem_cache/kv_cache_configurator.py of 0.5.23. Tolerance: none.
    """
    states = States(slot_bytes=10**6, per_request=5, spare=1, drafted=5, running=4)

    assert states.slots(19 * 10**9) == (9_000 - 6) * 5 // 10
    assert states.taken(19 * 10**9) == (4497 + 1 + 5 * 5) * 10**6
    least = states.least_budget(4, 10**9)
    assert states.requests(least) >= 4
    assert least - states.taken(least) >= 10**9


def test_a_pool_from_the_free_memory_of_a_log() -> None:
    """
    DeepSeek-V3 on GB200: 174.8407 GiB free before the load and 78.7196 after it, at 0.95, are 1,069,242 tokens.

    Source: a public repository file (repository not named). Tolerance: one in ten thousand, the log's last digit.
    """
    pool = fullest(ask_for("deepseek-ai/DeepSeek-V3", tp=8)).pool
    budget = int((78.7196 - 0.05 * 174.8407) * GIB)

    assert pool.tokens(budget) == pytest.approx(1_069_242, rel=1e-4)


def test_sparse_rows_up_to_0_5_16_are_counted_without_their_scales() -> None:
    """
    GLM-5 with a cache in FP8: 3,262,823 tokens are logged as 186.77 GiB, and were counted as 167.8.

    Each of 78 layers keeps 576 B of latent, 80 B of scales and padding, and 132 B of indexer keys; 576 and 132 are counted.
    Source: a public repository file (repository not named), sglang-glm5-fp8-mi355x of the records. Tolerance: 0.01 GiB.
    """
    old, new = (
        fullest(ask_for("zai-org/GLM-5", tp=8, version=version, kv_dtype="fp8_e4m3")).pool.cells
        for version in ("0.5.8", None)
    )

    assert old.n_bytes(3_262_823) / GIB == pytest.approx(186.77, abs=0.01)
    assert old.counted_bytes == 78 * (576 + 132)
    assert new.counted_bytes is None
    assert new.unit_bytes == old.unit_bytes == 78 * (656 + 132)


def test_lora_buffers_of_a_log() -> None:
    """
    Llama-3.1-8B, two adapters of rank 256: 2.5 GiB by the rule, 2.67 in the log, which adapts the head too perhaps.

    Hand-computed, a layer: A 3·4096 + 4096 + 2·4096 + 14336, B 6144 + 4096 + 28672 + 4096, times rank.
    Source: the outputs in https://docs.sglang.ai/advanced_features/lora.html. Tolerance: the stated band.
    """
    (part,) = lora_parts(ask_for("meta-llama/Llama-3.1-8B-Instruct", max_loras=2, max_lora_rank=256))
    layer = 3 * 4096 + 4096 + 2 * 4096 + 14_336 + 6144 + 4096 + 28_672 + 4096

    assert part.n_bytes == 32 * layer * 256 * 2 * 2
    assert part.low / GIB <= 2.67 <= part.high / GIB


def test_what_a_rank_holds_of_an_adapter() -> None:
    """tp 4: A of q, k, v, gate and up whole, B by output; A of o and down by input, B whole."""
    (part,) = lora_parts(ask_for("meta-llama/Llama-3.1-8B-Instruct", tp=4, max_loras=1, max_lora_rank=16))
    layer = 3 * 4096 + 4096 // 4 + 2 * 4096 + 14_336 // 4 + 6144 // 4 + 4096 + 28_672 // 4 + 4096

    assert part.n_bytes == 32 * layer * 16 * 2


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (LLAMA, {"speculative": "medusa"}, "has no method 'medusa' here"),
        (LLAMA, {"speculative": "mtp"}, "no layers for multi-token prediction"),
        (LLAMA, {"speculative": "eagle"}, "names no model"),
        (LLAMA, {"speculative_tokens": 3}, "say nothing without a method"),
        (LLAMA, {"speculative": "ngram", "version": "0.4.1"}, "is not modelled"),
        ("Qwen/Qwen3.6-27B", {"speculative": "mtp", "version": "0.5.9"}, "states of drafted tokens"),
        (LLAMA, {"max_loras": 2}, "sizes its LoRA buffers by the largest rank"),
        ("deepseek-ai/DeepSeek-V3", {"max_loras": 2, "max_lora_rank": 8}, "LoRA buffers of deepseek_v3"),
        ("Qwen/Qwen3-30B-A3B", {"max_loras": 1, "max_lora_rank": 8, "version": "0.5.9"}, "adapts no experts"),
    ],
)
def test_what_is_refused(model: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlannerError, match=message):
        Sglang().memory(ask_for(model, **options))


def test_a_plan_prints_what_sglang_will_log() -> None:
    plan = vp.plan(
        "meta-llama/Llama-3.1-8B-Instruct", ctx=8192, concurrency=4, gpu="H100 SXM5 80GB", engine="sglang",
        speculative="draft:meta-llama/Llama-3.2-1B-Instruct", offline=True,
    )  # fmt: skip
    assert plan.capacity is not None
    tokens = plan.capacity.kv_cache_tokens
    text = "\n".join(plan.capacity.log_lines)

    assert text.count(f"#tokens: {tokens}, K size: ") == 2
    assert f"max_total_num_tokens={tokens}, chunked_prefill_size=8192" in text
    assert "max_running_requests=48" in text
    assert "available_gpu_mem=" in text
    assert (
        "--speculative-algorithm STANDALONE --speculative-draft-model-path meta-llama/Llama-3.2-1B-Instruct"
        in (plan.launch)
    )


def test_a_load_that_leaves_no_pool_prints_the_refusal() -> None:
    plan = vp.plan(
        "meta-llama/Llama-3.1-70B-Instruct", ctx=8192, concurrency=1, gpu="2x H100 SXM5 80GB", tp=2, engine="sglang", offline=True,
        speculative="draft:meta-llama/Llama-3.2-1B-Instruct",
    )  # fmt: skip

    assert plan.capacity is not None
    assert plan.capacity.log_lines[-1].startswith("ValueError: Loaded weights leave no GPU memory")


def test_the_default_fraction_goes_by_what_nvidia_smi_counts() -> None:
    """H100: 81,559 MiB there, 81,079 in torch; 0.83 and not 0.829. Source: a log of 0.5.18, sglang-qwen3-30b-fp8-h100."""
    plan = vp.plan(
        "Qwen/Qwen3-30B-A3B-FP8",
        ctx=8192,
        concurrency=1,
        gpu="H100 SXM5 80GB",
        engine="sglang",
        engine_version="0.5.18",
        offline=True,
    )

    assert plan.request["mem_fraction_static"] == pytest.approx(0.83, abs=5e-4)


def test_what_it_may_use_goes_by_the_fraction_that_the_plan_states() -> None:
    """With 48 running requests fewer graphs are captured, so that the default fraction is larger."""
    options: dict[str, Any] = {"engine": "sglang", "tp": 4, "gpu": "4x H100", "speculative": "ngram"}
    plan = vp.plan("meta-llama/Llama-3.2-3B", ctx=4096, concurrency=4, calibration=False, **options)

    assert plan.gpu is not None
    assert plan.capacity is not None
    assert plan.gpu.usable_bytes == plan.capacity.usable_bytes
