"""A record of SGLang as what its log says: its load, its pools, and what was free before the load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.engines.sglang_defaults import profile_of
from vram_planner.engines.sglang_free import slack_gib
from vram_planner.planning.estimate import estimate
from vram_planner.units import GIB
from vram_planner.validate.bands import sglang_covered

if TYPE_CHECKING:
    from vram_planner.planning.plan import MemoryPlan

_FREE = ", free memory as logged"


def pairs_of(row: dict[str, Any], plan: MemoryPlan) -> dict[str, tuple[float, float]]:
    """
    Predicted and logged, in GiB and tokens. The load is tensors and what it takes beside them, as "mem usage" is.

    "Free before the load" is compared where the log has it: on a card that nothing else used.
    """
    log, capacity = row["measured"], plan.capacity
    parts = {part.name: part for part in plan.parts}
    predicted = {
        "load": ((parts["weights"].n_bytes / GIB) + _slack(plan), log.get("model_loading_gib")),
        "load with draft": (_with_draft(plan), log.get("weights_and_draft_gib")),
        "LoRA buffers": (parts["lora"].n_bytes / GIB if "lora" in parts else 0.0, log.get("lora_gib")),
    }
    if capacity is not None and plan.gpu is not None:
        free = (plan.gpu.total_bytes - _gone(plan)) / GIB
        predicted["free before the load"] = (free, log.get("avail_before_gb"))
        predicted["KV pool"] = (capacity.kv_pool_bytes / GIB, logged_pool(log))
        predicted["KV tokens"] = (float(capacity.kv_cache_tokens), log.get("kv_cache_tokens"))
    return {name: (ours, float(theirs)) for name, (ours, theirs) in predicted.items() if theirs is not None}


def with_logged_free(row: dict[str, Any]) -> dict[str, Any]:
    """
    An SGLang start with the free memory that its log states: the rule of the pool alone.

    What a CUDA context, NCCL and other programs take before the load is the machine's; a plan on the card estimates it.
    The fraction is the log's, or the default of the named card, or of a release whose default knows no card.
    """
    from vram_planner.validate.replay_servers import card_of, request_of  # noqa: PLC0415  which ask for this module

    log = row["measured"]
    share = _share_of(row)
    if row["engine"] != "sglang" or log.get("avail_before_gb") is None or share is None:
        return {}
    request = request_of({**row, "gpu_memory_utilization": share}, "sglang")
    free = {**row, "gpu": row.get("gpu") or "any", "gpu_total_gib": log["avail_before_gb"]}
    plan = estimate(request, card_of(free, request))
    if plan.capacity is None or not plan.capacity.kv_pool_bytes:
        return {}
    # The plan took the context off the free memory, where it is gone already: its share goes back to the pool.
    pool = plan.capacity.kv_pool_bytes + int(_context(plan) * GIB * share)
    tokens = plan.capacity.kv_cache_tokens * pool / plan.capacity.kv_pool_bytes
    pairs = {
        "load": (plan.part("weights").n_bytes / GIB + _slack(plan), log.get("model_loading_gib")),
        f"KV pool{_FREE}": (pool / GIB, logged_pool(log)),
        f"KV tokens{_FREE}": (tokens, log.get("kv_cache_tokens")),
    }
    known = {name: (ours, float(theirs)) for name, (ours, theirs) in pairs.items() if theirs is not None}
    return {"pairs": known, "covered": sglang_covered(plan, known, share=share, free_known=True)}


def _share_of(row: dict[str, Any]) -> float | None:
    from vram_planner.validate.replay_servers import is_product, plan_of, version_of  # noqa: PLC0415  as above

    if row["engine"] != "sglang" or row.get("gpu_memory_utilization") is not None:
        share: float | None = row.get("gpu_memory_utilization")
        return share
    version = version_of(row)
    fixed = version is not None and profile_of(version)["rule"] == "fixed"
    if not fixed and not is_product(row.get("gpu")):
        return None
    named = row if not fixed else {**row, "gpu": row.get("gpu") or "any", "gpu_total_gib": 80}
    return float(str(plan_of(named).request["mem_fraction_static"]))


def _ranks(plan: MemoryPlan) -> int:
    return plan.layout.tp * plan.layout.pp


def _slack(plan: MemoryPlan) -> float:
    return slack_gib(_ranks(plan))[0]


def _context(plan: MemoryPlan) -> float:
    from vram_planner.validate.bands import context_band  # noqa: PLC0415  beside the bands

    return context_band(plan)[0]


def _gone(plan: MemoryPlan) -> int:
    return int(_context(plan) * GIB)


def _with_draft(plan: MemoryPlan) -> float:
    """The target's and the draft's own tensors, without the copies that go once the pools are made."""
    return sum(part.low for part in plan.parts if part.name in ("weights", "draft_model")) / GIB


def logged_pool(log: dict[str, Any]) -> float | None:
    """All that the pool holds: with windows SGLang logs each pool and their sum, states beside keys and values."""
    if log.get("available_kv_cache_gib") is not None:
        return float(log["available_kv_cache_gib"])
    if log.get("window_pool_gb") is not None:
        return float(log["window_pool_gb"])
    beside = sum(
        float(log.get(name, 0.0))
        for name in ("conv_state_gb", "ssm_state_gb", "draft_states_gb", "draft_kv_gb")
    )
    if log.get("k_gb") is not None and log.get("v_gb") is not None:
        return float(log["k_gb"] + log["v_gb"]) + beside
    return None if log.get("kv_size_gb") is None else float(log["kv_size_gb"]) + beside
