from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import vram_planner as vp
from vram_planner.architecture.parallel import Layout
from vram_planner.architecture.storage import BFLOAT16, MXFP4
from vram_planner.architecture.weight import Role
from vram_planner.engines import vllm_draft, vllm_log, vllm_lora, vllm_mxfp4, vllm_offload, vllm_setting
from vram_planner.engines.base import Ask, Device, Options, Workload
from vram_planner.engines.vllm_features import settled
from vram_planner.engines.vllm_stages import stage_asks, stage_weights
from vram_planner.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.model import Architecture

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parent.parent / "oracles" / "vllm_features.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()
]
LONG = 40_000


def name_of(row: dict[str, Any]) -> str:
    speculative, lora = row["speculative"] or {}, row["lora"] or {}
    told = [row["model"], *(f"{key}{row[key]}" for key in ("tp", "pp", "stage", "dp", "dcp") if row[key] > 1)]
    return "-".join(
        [*told, *map(str, speculative.values()), *map(str, lora.values()), str(row["cpu_offload_gib"] or "")]
    )


def rows_with(key: str, *, where: Callable[[dict[str, Any]], bool] = lambda _: True) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", [row for row in ROWS if key in row and where(row)], ids=name_of)


def ask_for(row: dict[str, Any], known: Callable[[str], Architecture]) -> Ask:
    lora, speculative = row["lora"] or {}, row["speculative"] or {}
    model = known(row["model"])
    base = getattr(model.precision, "base", None)
    precision = model.precision
    if base is not None and base.name == "float32":
        precision = model.precision.with_base(BFLOAT16)  # type: ignore[attr-defined]
    return settled(
        Ask(
            architecture=model,
            precision=precision,
            workload=Workload(context=row["max_model_len"], concurrency=1, prompt_tokens=1),
            layout=Layout(tp=row["tp"], pp=row["pp"], dp=row["dp"], expert_parallel=row["ep"]),
            options=Options(
                kv_dtype=row["kv_dtype"],
                max_num_batched_tokens=row["max_num_batched_tokens"],
                max_num_seqs=row.get("max_num_seqs"),
                max_loras=lora.get("slots"),
                max_lora_rank=lora.get("rank"),
                fully_sharded_loras=lora.get("sharded", False),
                speculative=speculative.get("method"),
                speculative_tokens=speculative.get("tokens"),
                cpu_offload=int(row["cpu_offload_gib"] * GIB) or None,
                decode_context_parallel_size=row["dcp"],
            ),
            device=Device(name="pretend", total_bytes=80 * GIB, compute_capability=(9, 0)),
            draft=known(speculative["model"]) if speculative.get("model") else None,
        )
    )


@rows_with("lora_bytes")
def test_lora_slots_are_what_vllm_allocates(
    row: dict[str, Any], oracle_architecture: Callable[[str], Architecture]
) -> None:
    """Source: the buffers that vLLM 0.32.0's LoRAModelManager makes on the meta device. Tolerance: none."""
    ask = ask_for(row, oracle_architecture)
    (part,) = vllm_lora.lora_parts(ask, vllm_setting.settle(ask))

    assert part.n_bytes == row["lora_bytes"] + row["metadata_bytes"]


@rows_with("draft_bytes")
def test_the_draft_is_what_vllm_loads(
    row: dict[str, Any], oracle_architecture: Callable[[str], Architecture]
) -> None:
    """
    Source: parameters of the draft that vLLM 0.32.0 makes on the meta device, less what it shares. Tolerance: none.

    No checkpoint is read there, so the head that an EAGLE-3 checkpoint brings is shared too: it is added here.
    """
    ask = ask_for(row, oracle_architecture)
    (part,) = vllm_draft.draft_parts(ask)
    own = 0
    if ask.options.speculative == "eagle3" and ask.draft is not None:
        head = next(weight for weight in ask.draft.embedding_extras if weight.name == "draft_head")
        own = head.elements * 2 // row["tp"]

    assert part.n_bytes == row["draft_bytes"] + own


@rows_with("offloaded_bytes")
def test_what_stays_in_host_memory_is_what_vllm_leaves_there(
    row: dict[str, Any], oracle_architecture: Callable[[str], Architecture]
) -> None:
    """
    Source: UVAOffloader of vLLM 0.32.0 over parameters on the meta device. Tolerance: none; of MXFP4 experts, whose
    scales and biases are parameters of their own there, one stack of a layer.
    """
    ask = ask_for(row, oracle_architecture)
    stack = max(
        (MXFP4.nbytes(weight) for weight in ask.architecture.layers[0].weights if weight.role is Role.EXPERT),
        default=0,
    )
    tolerance = stack if ask.precision.name == "mxfp4" else 0

    assert abs(vllm_offload.offloaded_bytes(ask) - row["offloaded_bytes"]) <= tolerance


@rows_with("param_bytes", where=lambda row: row["pp"] > 1 or row["dp"] > 1)
def test_weights_of_each_stage_and_replica_are_what_vllm_allocates(
    row: dict[str, Any], oracle_architecture: Callable[[str], Architecture]
) -> None:
    """
    Source: parameters of vLLM 0.32.0 on the meta device: experts over all of tp × dp, tables on the stages that make
    them. Tolerance: none, but for Gemma 4's scalar of a layer, which is a buffer there.
    """
    ask = ask_for(row, oracle_architecture)
    count = len(stage_asks(ask)[row["stage"]].architecture.layers)
    scalars = 2 * count if ask.architecture.model_type == "gemma4_text" else 0
    planned = stage_weights(ask)[row["stage"]] + vllm_mxfp4.padding_bytes(ask)

    assert planned == row["param_bytes"] + scalars


@rows_with("results")
def test_blocks_are_those_of_vllm(
    row: dict[str, Any], oracle_architecture: Callable[[str], Architecture]
) -> None:
    """
    Source: vLLM 0.32.0's own configuration and KV-cache code, the draft's layers in it. Tolerance: none.

    Under pipeline parallelism the oracle saw one stage alone, where vLLM groups the layers of all: of several kinds of
    layers it says nothing there.
    """
    ask = ask_for(row, oracle_architecture)
    setting = vllm_setting.settle(ask)
    groups = vllm_setting.stage_groups(ask, setting)
    in_flight = vllm_setting.in_flight(ask, setting)

    if row["pp"] > 1 and len(groups.kinds) > 1:
        return
    assert groups.block == row["block_size"]
    for result in row["results"]:
        if "error" in result:
            continue
        assert groups.on_stage(row["stage"]) == result["bytes_per_block"]
        blocks = groups.blocks_per_request(row["max_model_len"], in_flight)
        assert result["num_blocks"] / blocks == result["max_concurrency"]


@pytest.mark.parametrize(
    ("row", "result"),
    [
        pytest.param(row, result, id=f"{name_of(row)}-{result['available_bytes']}")
        for row in ROWS
        if row["pp"] == 1
        for result in row.get("results", ())
        if row["max_model_len"] > LONG or "error" in result
    ],
)
def test_what_vllm_says_of_the_pool_is_told_word_for_word(
    row: dict[str, Any], result: dict[str, Any], oracle_architecture: Callable[[str], Architecture]
) -> None:
    """Source: the error of vLLM 0.32.0, or None, for a pool of so many bytes. Tolerance: none."""
    ask = ask_for(row, oracle_architecture)
    setting = vllm_setting.settle(ask)
    groups = vllm_setting.stage_groups(ask, setting)
    pool = vllm_log.Pool(result["available_bytes"], groups.bytes_per_block, 0, 0.0)
    said = vllm_log.why_not_started(ask, setting, groups, pool)

    assert (None if said is None else f"ValueError: {said}") == result.get("error")


def plan(**options: Any) -> vp.MemoryPlan:
    asked: dict[str, Any] = {"ctx": 8192, "concurrency": 4, "offline": True, "calibration": False, **options}
    return vp.plan(asked.pop("model", "7b"), **asked)


def test_the_four_lines_of_the_log_are_told() -> None:
    found = plan(gpu="RTX 4090")
    assert found.capacity is not None
    weights, pool, size = found.capacity.log_lines

    assert weights == "Model loading took 14.27 GiB memory"
    assert pool == f"Available KV cache memory: {round(found.capacity.kv_pool_bytes / GIB, 2)} GiB"
    assert size == (
        f"GPU KV cache size: {found.capacity.kv_cache_tokens:,} tokens,"
        f" Maximum concurrency for 8,192 tokens per request: {found.capacity.max_concurrency:.2f}x"
    )
    older = plan(gpu="RTX 4090", engine_version="0.19").capacity
    assert older is not None
    assert [line.partition(":")[0] for line in older.log_lines[2:]] == [
        "GPU KV cache size",
        "Maximum concurrency for 8,192 tokens per request",
    ]


def test_an_adapter_slot_more_never_costs_less() -> None:
    sizes = [plan(max_loras=count).part("lora").n_bytes for count in (1, 2, 4)]

    assert sizes == sorted(sizes)
    assert "--enable-lora --max-loras 4" in plan(max_loras=4).launch


def test_a_fixed_pool_is_what_was_asked_for_and_no_more() -> None:
    found = plan(gpu="RTX 4090", kv_cache_memory="4GiB")
    assert found.capacity is not None
    assert found.gpu is not None

    assert found.capacity.kv_pool_bytes == 4 * GIB
    assert found.gpu.usable_bytes == found.gpu.total_bytes
    assert f"--kv-cache-memory-bytes {4 * GIB}" in found.launch


def test_what_stays_in_host_memory_makes_room_on_the_card() -> None:
    plain, less = plan(gpu="RTX 4090"), plan(gpu="RTX 4090", cpu_offload="4GiB")
    gone = plain.part("weights").n_bytes - less.part("weights").n_bytes
    assert plain.capacity is not None
    assert less.capacity is not None

    assert gone >= 4 * GIB
    assert less.capacity.kv_pool_bytes - plain.capacity.kv_pool_bytes == gone


def test_decode_context_parallelism_deals_out_what_mla_copies() -> None:
    plain = plan(model="671b", tp=8, dtype="auto")
    shared = plan(model="671b", tp=8, decode_context_parallel_size=8)

    assert plain.kv.bytes_per_request == 8 * shared.kv.bytes_per_request
    assert (plain.kv.replicated_ranks, shared.kv.replicated_ranks) == (8, 1)


def test_data_parallel_replicas_share_one_set_of_experts() -> None:
    alone = plan(model="Qwen/Qwen3-30B-A3B", tp=1).part("weights").n_bytes
    cut = plan(model="Qwen/Qwen3-30B-A3B", tp=1, dp=4).part("weights").n_bytes
    whole = plan(model="Qwen/Qwen3-30B-A3B", tp=1, dp=4, ep=True)

    assert cut == whole.part("weights").n_bytes < alone / 2
    assert any("exchange the tokens" in missing for missing in whole.not_modelled)


def test_a_draft_model_is_named_in_one_option_or_in_two() -> None:
    one = plan(model="Qwen/Qwen3-8B", speculative="draft:Qwen/Qwen3-0.6B", speculative_tokens=3)
    two = plan(model="Qwen/Qwen3-8B", draft_model="Qwen/Qwen3-0.6B", speculative_tokens=3)

    assert one.part("draft_model").n_bytes == two.part("draft_model").n_bytes
    assert one.launch == two.launch
    assert '"model": "Qwen/Qwen3-0.6B", "num_speculative_tokens": 3' in one.launch


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_loras": 1, "max_lora_rank": 17}, "no LoRA rank 17"),
        (
            {"model": "deepseek-ai/DeepSeek-V4-Flash", "max_loras": 1},
            "LoRA slots of deepseek_v4 are not known",
        ),
        ({"max_loras": 1, "max_lora_rank": 1, "tp": 2, "fully_sharded_loras": True}, "cannot be cut into 2"),
        ({"speculative": "mtp"}, "no layers for multi-token prediction"),
        ({"speculative": "medusa", "speculative_tokens": 2}, "no method 'medusa'"),
        ({"speculative": "ngram"}, "needs a number of tokens"),
        ({"speculative": "draft", "speculative_tokens": 2}, "names no model"),
        ({"speculative": "ngram:1.5b", "speculative_tokens": 2}, "takes no model"),
        (
            {"speculative": "draft:Qwen/Qwen3-0.6B", "speculative_tokens": 2, "model": "8b"},
            "same vocabulary size",
        ),
        ({"speculative": "draft:1.5b", "draft_model": "8b", "speculative_tokens": 2}, "name two models"),
        ({"speculative": "eagle3:1.5b", "speculative_tokens": 2}, "is no EAGLE-3 head"),
        ({"speculative_tokens": 2}, "say nothing without a method"),
        ({"model": "671b", "tp": 8, "pp": 2, "speculative": "mtp"}, "beside pipeline stages"),
        ({"tp": 4, "decode_context_parallel_size": 3}, "does not divide tensor parallel 4"),
        ({"tp": 4, "decode_context_parallel_size": 2}, "at most 1 ranks hold the same head"),
        (
            {"model": "openai/gpt-oss-20b", "tp": 2, "decode_context_parallel_size": 2},
            "neither windows nor recurrent states",
        ),
        ({"engine": "tensorrt-llm", "max_loras": 1}, "TensorRT-LLM has no --max-loras here"),
        ({"engine": "ollama", "draft_model": "1.5b"}, "has no --draft-model here"),
        ({"cpu_offload": "8G"}, "cannot read the size"),
    ],
)
def test_what_vllm_refuses_is_refused(options: dict[str, Any], message: str) -> None:
    """Source: vLLM 0.32 config/lora.py, speculative.py, parallel.py and model.py."""
    with pytest.raises(vp.PlannerError, match=message):
        plan(**options)
