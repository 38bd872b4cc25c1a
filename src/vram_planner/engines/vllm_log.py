"""The lines that vLLM itself prints as it starts, and the error with which it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vram_planner.engines.base import largest
from vram_planner.units import GIB

if TYPE_CHECKING:
    from vram_planner.engines.base import Ask, Memory
    from vram_planner.engines.vllm_groups import Groups
    from vram_planner.engines.vllm_setting import Setting

_AS_WEIGHTS = ("weights", "buffers", "draft_model", "lora")
_MANUAL = "See https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details."
_TOO_LARGE = (
    "Failed to load model - not enough GPU memory. Try lowering --gpu-memory-utilization to free memory for weights,"
    " increasing --tensor-parallel-size, or using --quantization."
)
_NEWEST = "0.32"


def format_gib(n_bytes: int) -> str:
    """As vLLM prints it: two decimals, the last left out where it is none (vllm/utils/mem_utils.py)."""
    return f"{round(n_bytes / GIB, 2)}"


class Pool(NamedTuple):
    """The pool of blocks on the stage with least room, and what it holds."""

    n_bytes: int
    block_bytes: int
    tokens: int
    concurrency: float


def log_lines(ask: Ask, setting: Setting, memory: Memory, groups: Groups, pool: Pool) -> tuple[str, ...]:
    """
    What 0.8 to 0.32 log of memory; none for the V0 engine, which logged otherwise.

    Source: vLLM 0.32 v1/worker/gpu/model_runner.py, v1/worker/gpu_worker.py,
    v1/core/kv_cache_utils.py (update_kv_cache_capacity); seconds are left out.
    """
    if setting.profile.get("v0"):
        return ()
    loaded = memory.bytes_of(*_AS_WEIGHTS)
    if ask.device is not None and loaded > ask.device.total_bytes:
        return (f"torch.OutOfMemoryError: {_TOO_LARGE}",)
    lines = [f"Model loading took {format_gib(loaded)} GiB memory"]
    if not ask.options.kv_cache_memory:
        lines.append(f"Available KV cache memory: {format_gib(pool.n_bytes)} GiB")
    refused = why_not_started(ask, setting, groups, pool)
    if refused is not None:
        return (*lines, f"ValueError: {refused}")
    size = f"GPU KV cache size: {pool.tokens:,} tokens"
    most = f"Maximum concurrency for {ask.workload.context:,} tokens per request: {pool.concurrency:.2f}x"
    # 0.32 prints the two in one line.
    return (*lines, f"{size}, {most}") if setting.profile["title"] == _NEWEST else (*lines, size, most)


def why_not_started(ask: Ask, setting: Setting, groups: Groups, pool: Pool) -> str | None:
    """
    The error with which vLLM refuses to start; None where one request of the whole context has room.

    Since 0.32 one block of the pool is set aside first. Source: vLLM 0.32 v1/core/kv_cache_utils.py,
    get_kv_cache_configs and _check_enough_kv_cache_memory.
    """
    from vram_planner.engines.vllm_setting import in_flight  # noqa: PLC0415  which asks for the groups too

    context, flying = ask.workload.context, in_flight(ask, setting)
    room = pool.n_bytes - (pool.block_bytes if setting.profile["title"] == _NEWEST else 0)
    if room <= 0:
        return (
            "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing"
            " the engine (this flag also controls CPU memory reservation on the CPU backend, despite its name)."
            f" {_MANUAL}"
        )
    needed = groups.blocks_per_request(context, flying) * pool.block_bytes
    if needed <= room:
        return None

    def fits(length: int) -> bool:
        return groups.blocks_per_request(length, flying) * pool.block_bytes <= room

    most = largest(fits, context)
    estimated = (
        f"Based on the available memory, the estimated maximum model length is {most}. " if most else ""
    )
    return (
        f"To serve at least one request with the model's max seq len ({context}), ({format_gib(needed)} GiB KV"
        f" cache is needed, which is larger than the available KV cache memory ({format_gib(room)} GiB)."
        f" {estimated}Try increasing `gpu_memory_utilization` (which also controls CPU memory on the CPU backend)"
        f" or decreasing `max_model_len` when initializing the engine. {_MANUAL}"
    )
