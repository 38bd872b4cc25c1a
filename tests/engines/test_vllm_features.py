from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vram_planner.architecture.parallel import Layout, rank_weight_bytes
from vram_planner.engines import vllm, vllm_draft, vllm_lora, vllm_offload, vllm_parts, vllm_setting
from vram_planner.engines.base import Ask, Capacity, Device, Options, Workload
from vram_planner.engines.vllm_features import settled
from vram_planner.engines.vllm_stages import stage_asks
from vram_planner.engines.vllm_weights import as_held
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
ENGINE = vllm.Vllm()
POOL = ("kv_cache", "recurrent_state")


def name_of(row: dict[str, Any]) -> str:
    speculative, lora = row["speculative"] or {}, row["lora"] or {}
    told = [row["model"], *(f"{key}{row[key]}" for key in ("tp", "pp", "stage", "dp", "dcp") if row[key] > 1)]
    return "-".join(
        [*told, *map(str, speculative.values()), *map(str, lora.values()), str(row["cpu_offload_gib"] or "")]
    )


def rows_with(key: str, *, where: Callable[[dict[str, Any]], bool] = lambda _: True) -> Any:
    return pytest.mark.parametrize("row", [row for row in ROWS if key in row and where(row)], ids=name_of)


def ask_for(row: dict[str, Any], known: Callable[[str], Architecture]) -> Ask:
    lora, speculative = row["lora"] or {}, row["speculative"] or {}
    model = known(row["model"])
    base = getattr(model.precision, "base", None)
    precision = model.precision
    if base is not None and base.name == "float32":
        from vram_planner.architecture.storage import BFLOAT16

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
    """Source: UVAOffloader of vLLM 0.32.0 over parameters on the meta device. Tolerance: none."""
    assert vllm_offload.offloaded_bytes(ask_for(row, oracle_architecture)) == row["offloaded_bytes"]


@rows_with("param_bytes", where=lambda row: row["pp"] > 1 or row["dp"] > 1)
def test_weights_of_each_stage_and_replica_are_what_vllm_allocates(
    row: dict[str, Any], oracle_architecture: Callable[[str], Architecture]
) -> None:
    """Source: parameters of vLLM 0.32.0 on the meta device: experts over all of tp × dp. Tolerance: none."""
    ask = ask_for(row, oracle_architecture)
    weights = rank_weight_bytes(*as_held(ask.architecture, ask.precision, ask.layout), ask.layout)

    assert weights[row["stage"]] + vllm_parts.mxfp4_padding_bytes(ask) == row["param_bytes"]


@rows_with("results")
def test_blocks_are_those_of_vllm(
    row: dict[str, Any], oracle_architecture: Callable[[str], Architecture]
) -> None:
    """Source: vLLM 0.32.0's own configuration and KV-cache code, the draft's layers in it. Tolerance: none."""
    ask = ask_for(row, oracle_architecture)
    setting = vllm_setting.settle(ask)
    groups = vllm_setting.stage_groups(ask, setting)

    assert groups.block == row["block_size"]
    for result in row["results"]:
        if "error" in result:
            continue
        block_bytes = groups.on_stage(row["stage"])
        assert block_bytes == result["bytes_per_block"]
        blocks = groups.blocks_per_request(row["max_model_len"], vllm_setting.in_flight(replace_pp(ask), setting))
        assert result["num_blocks"] / blocks == result["max_concurrency"]


def replace_pp(ask: Ask) -> Ask:
    return ask
