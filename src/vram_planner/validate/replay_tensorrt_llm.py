"""A record of TensorRT-LLM whose log states the peak of its dry run: the rule of the pool alone."""

from __future__ import annotations

from typing import Any

from vram_planner.planning.estimate import estimate
from vram_planner.units import GIB


def with_logged_peak(row: dict[str, Any]) -> dict[str, Any]:
    """
    Pool and tokens from the total and the peak that the log states: (total − peak + the dry run's cache) × fraction.

    What lies outside the tensors (context, libraries, on unified memory the host's own) is the machine's.
    Source: KvCacheCreator._cal_max_memory, tensorrt_llm/_torch/pyexecutor/_util.py.
    """
    from vram_planner.validate.replay_servers import request_of  # noqa: PLC0415  which asks for this module

    log = row["measured"]
    if row["engine"] not in ("trtllm", "tensorrt-llm") or log.get("peak_gib") is None:
        return {}
    plan = estimate(request_of(row, "tensorrt-llm"))
    share, block = plan.request["free_gpu_memory_fraction"], plan.request["tokens_per_block"]
    pool = (log["total_gib"] - log["peak_gib"] + log.get("temporary_kv_gib", 0.0)) * share
    blocks = -(-int(pool * GIB) // (block * plan.kv.bytes_per_token))
    pairs = {
        "weights": (plan.part("weights").n_bytes / GIB, log.get("model_loading_gib")),
        "KV pool, free memory as logged": (pool, log.get("available_kv_cache_gib")),
        "KV tokens, free memory as logged": (float(blocks * block), log.get("kv_cache_tokens")),
    }
    return {"pairs": {name: (ours, float(said)) for name, (ours, said) in pairs.items() if said is not None}}
