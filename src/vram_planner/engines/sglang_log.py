"""The lines that SGLang itself prints of memory as it starts, and the error with which it does not."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from vram_planner.engines.sglang_defaults import version_key
from vram_planner.engines.sglang_free import context_of, free_bytes, request_table_bytes, running_requests
from vram_planner.units import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.engines.base import Ask, Memory
    from vram_planner.engines.sglang_pool import Rank

_PREFILL_TOKENS = 16384  # --max-prefill-tokens
_DTYPES = {"fp8": "float8_e4m3fn", "fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}
_LOADED = ("weights", "draft_model", "lora")
_NOT_LEFT = ("kv_cache", "recurrent_state", "activations", "cuda_graphs", "runtime")
_EXPLAINS = (0, 5, 14)  # from this release on the error names the fraction that would do


def log_lines(ask: Ask, rank: Rank, memory: Memory, tokens: int, budget: int) -> tuple[str, ...]:
    """
    What SGLang logs of the load, its pools and what is left, as 0.5.23 words it; sizes in GiB, which it calls GB.

    What is left after the graphs is given as a range: graphs and what was gone before the load are not known exactly.
    Source: MHATokenToKVPool._finalize_allocation_log, mem_cache/memory_pool.py; Scheduler.init_model_worker,
    managers/scheduler.py. Leaves out: pools apart for sliding layers, whose two sizes are logged too.
    """
    loaded = memory.bytes_of(*_LOADED) + _slack(memory)
    lines = [f"Load weight end. mem usage={(memory.bytes_of('weights') + _slack(memory)) / GIB:.2f} GB"]
    if memory.bytes_of("draft_model"):
        lines.append(f"Load weight end. mem usage={memory.bytes_of('draft_model') / GIB:.2f} GB")
    if tokens <= 0:
        return (*lines, _refusal(ask, memory, loaded))
    states = rank.pool.states
    if states is not None:
        lines.append(f"Mamba Cache is allocated. max_mamba_cache_size: {states.slots(budget)}")
    if rank.pool.cells.unit_bytes:
        lines += _pool_lines(ask, rank, tokens)
    requests = running_requests(ask, tokens)
    if states is not None:
        requests = max(1, min(requests, states.requests(budget)))
    low, high = _left(ask, rank, memory, (tokens, budget, requests))
    lines.append(
        f"max_total_num_tokens={tokens}, chunked_prefill_size={memory.settings['chunked_prefill_size']}, "
        f"max_prefill_tokens={_PREFILL_TOKENS}, max_running_requests={requests}, "
        f"context_len={ask.workload.context}, available_gpu_mem={low:.1f} to {high:.1f} GB"
    )
    return tuple(lines)


def _pool_lines(ask: Ask, rank: Rank, tokens: int) -> list[str]:
    cells = rank.pool.cells
    if cells.window is not None:
        up, down = cells.share
        sliding = tokens * up // down // cells.page * cells.page
        size = cells.n_bytes(tokens) / GIB
        return [f"SWAKVPool mem usage: {size:.2f} GB, swa size: {sliding}, full size: {tokens}"]
    base = getattr(ask.precision, "base", None)
    kind = f"torch.{_DTYPES.get(ask.options.kv_dtype, base.name if base else 'bfloat16')}"
    lines = []
    for unit_bytes in (cells.unit_bytes - cells.draft_bytes, cells.draft_bytes):
        if unit_bytes:
            size = ceil(unit_bytes * (tokens + cells.page) / cells.unit) / GIB
            sizes = f"K size: {size / 2:.2f} GB, V size: {size / 2:.2f} GB"
            lines.append(
                f"KV Cache is allocated. dtype: {kind}, #tokens: {tokens}, "
                f"{sizes if cells.split else f'KV size: {size:.2f} GB'}"
            )
    return lines


def _left(ask: Ask, rank: Rank, memory: Memory, pool: tuple[int, int, int]) -> tuple[float, float]:
    """GiB free after the graphs: what is free before the load − load − pools − the table of requests − graphs."""
    tokens, budget, requests = pool
    taken = memory.bytes_of(*_LOADED) + _slack(memory) + rank.pool.cells.n_bytes(tokens)
    taken += rank.pool.cells.fixed_bytes + request_table_bytes(ask, requests)
    if rank.pool.states is not None:
        taken += rank.pool.states.taken(budget)
    best, least, most = (value * GIB for value in context_of(ask))
    parts: Mapping[str, tuple[int, int, int]] = {p.name: (p.n_bytes, p.low, p.high) for p in memory.parts}
    graphs = parts["cuda_graphs"]
    rest = free_bytes(ask) - taken
    # A graph of a whole chunk keeps the forward's buffers.
    low = rest - graphs[2] - parts["activations"][0] - (most - best)
    high = rest - graphs[1] + (best - least)
    return max(0.0, low / GIB), max(0.0, high / GIB)


def _slack(memory: Memory) -> int:
    return sum(part.budgeted_bytes for part in memory.parts if part.name == "runtime")


def _refusal(ask: Ask, memory: Memory, loaded: int) -> str:
    """Source: KVCacheConfigurator._profile_available_bytes; ModelRunner.init_memory_pool before 0.5.14."""
    version = ask.options.version
    if version is not None and version_key(version) < _EXPLAINS:
        return "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static."
    before = free_bytes(ask)
    least = loaded / before if before else 1.0
    return (
        "ValueError: Loaded weights leave no GPU memory for the KV cache under "
        f"--mem-fraction-static={memory.settings['mem_fraction_static']}. Raise --mem-fraction-static above "
        f"{ceil(least * 1000) / 1000:.3f} (minimum viable = 1 - available/pre = {least:.4f}). "
        "If using speculative decoding, draft weights are now counted."
    )
