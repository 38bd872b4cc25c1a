"""What SGLang finds free before the load, what a load takes beside the tensors, and the table of requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.engines.layouts import named_device, per_replica
from vram_planner.units import GIB

if TYPE_CHECKING:
    from vram_planner.engines.base import Ask

Band = tuple[float, float, float]

# Total less "avail mem" before the load, in GiB: (best, low, high), the middle and the ends of public logs. One rank: A100-40
# 0.41, 4090 0.48, H200 0.60, H100 0.72, MI355X 0.8, 3090 under WSL 0.93. Several: A10 at 4 0.43, 4090 at 4 0.56, A100 PCIe at
# 2 0.76; where NVSwitch joins them NCCL takes buffers for NVLS and the custom all-reduce its own: H100 at 4 2.1 and at 8 2.46,
# H200 at 8 2.5, B200 at 4 3.0; MI355X at 8 4.5. The low end there is an H20 at 8 (0.5.12).
_ONE: Band = (0.6, 0.3, 0.95)
_PCIE: Band = (0.6, 0.4, 2.5)
_SWITCHED: Band = (2.5, 0.3, 4.5)
_UNKNOWN: Band = (0.9, 0.3, 3.0)
_SWITCHES = (9, 10)  # compute capabilities of Hopper and datacentre Blackwell
# "mem usage" of the load less the tensors' bytes: allocator slack, rotary tables, libraries. On 12 loads of one rank and 7 of
# several, of the records in start_up_logs.jsonl (best, low, high).
_SLACK_ONE: Band = (0.1, 0.02, 0.25)
_SLACK_SEVERAL: Band = (0.2, 0.05, 0.9)

_TABLE_BYTES = 4
_TABLE_EXTRA = 4  # tokens beside the context in each row of the table
_LEAST_REQUESTS, _MOST_REQUESTS, _REQUESTS_A_CONTEXT = 2048, 4096, 512


def context_gib(ranks: int, capability: tuple[int, int] | None, *, known_card: bool) -> Band:
    """GiB gone before the load (best, low, high): CUDA context, and NCCL between `ranks`; AMD's cards have no capability."""
    if ranks == 1:
        return _ONE
    if not known_card:
        return _UNKNOWN
    return _SWITCHED if capability is None or capability[0] in _SWITCHES else _PCIE


def slack_gib(ranks: int) -> Band:
    """GiB of "mem usage" beside the tensors' bytes (best, low, high)."""
    return _SLACK_ONE if ranks == 1 else _SLACK_SEVERAL


def context_of(ask: Ask) -> Band:
    """`context_gib` of this ask."""
    device = ask.device
    capability = None if device is None else device.compute_capability
    return context_gib(_ranks(ask), capability, known_card=device is not None)


def slack_of(ask: Ask) -> Band:
    """`slack_gib` of this ask."""
    return slack_gib(_ranks(ask))


def _ranks(ask: Ask) -> int:
    return ask.layout.tp * ask.layout.pp


def free_bytes(ask: Ask) -> int:
    """Total − what is gone before the load, in bytes."""
    return max(0, named_device(ask).total_bytes - int(context_of(ask)[0] * GIB))


def running_requests(ask: Ask, tokens: int) -> int:
    """
    `max_running_requests`, which SGLang works out from the pool where it is not set: 512 times the contexts that it holds.

    min(clamp(tokens / context · 512, 2048, 4096), tokens / 2); what was asked for is shared out over groups of data
    parallel attention. Source: KVCacheConfigurator.resolve_max_num_reqs, mem_cache/kv_cache_configurator.py.
    """
    asked = ask.options.max_num_seqs
    if asked is not None:
        return max(1, min(asked // ask.layout.attention_dp, tokens // 2))
    held = int(tokens / ask.workload.context * _REQUESTS_A_CONTEXT)
    return max(1, min(held, _MOST_REQUESTS) if held > _LEAST_REQUESTS else min(_LEAST_REQUESTS, tokens // 2))


def request_table_bytes(ask: Ask, requests: int) -> int:
    """
    The table of which slots each request has, outside the pool's budget: (requests + 1) · (context + 4 + drafted) · 4 B.

    Source: ReqToTokenPool.__init__, mem_cache/memory_pool.py; KVCacheConfigurator._build_req_to_token_pool.
    """
    drafted = ask.options.speculative_tokens or 0
    return (requests + 1) * (ask.workload.context + _TABLE_EXTRA + drafted) * _TABLE_BYTES


def planned_requests(ask: Ask) -> int:
    """Rows of that table in a plan without a known pool: as many as asked for, or the least that SGLang sets."""
    return ask.options.max_num_seqs or max(_LEAST_REQUESTS, per_replica(ask))
