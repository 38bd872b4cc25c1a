"""
What a sweep needs of vLLM so as not to ask for the memory of every cell: which parts change with what.

Of `Vllm.memory` the cache grows with the workload, by whole blocks: requests × blocks of a context × bytes of a
block. All else goes by the settings alone (max_num_seqs follows the concurrency), and for latent attention by the
context too (the profile run's dummy). A sweep checks this on its first and last cell of each model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.attention import Latent
from vram_planner.engines.layouts import per_replica
from vram_planner.engines.vllm_rules import card_defaults
from vram_planner.engines.vllm_setting import in_flight, settle, stage_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from vram_planner.engines.base import Ask

CACHE_PARTS = ("kv_cache", "recurrent_state")


def fixed_key(ask: Ask) -> Hashable:
    """
    Of asks that differ by their workload alone, those with one key differ in the cache alone.

    With more requests each of its numbers grows or stays.
    """
    setting = settle(ask)
    return setting.tokens, setting.requests, setting.block


def by_context(ask: Ask) -> bool:
    """
    Whether what is fixed changes with the context: latent attention's dummy, the profile run of the V0 engine.

    So does the batch where the smallest workload, which `ask` is, has fewer tokens in all its requests.
    """
    latent = any(isinstance(layer.mixer, Latent) for layer, _ in ask.architecture.groups)
    setting = settle(ask)
    if latent or setting.profile.get("v0"):
        return True
    whole = ask.options.max_num_batched_tokens or card_defaults(setting.profile, ask.device)[0]
    return setting.tokens < whole


def by_blocks(ask: Ask) -> bool:
    """Whether the concurrency is blocks over blocks of a request; up to 0.9.0 it is tokens over tokens."""
    return not settle(ask).profile["concurrency_by_length"]


def pages(ask: Ask) -> tuple[int, int, Callable[[int], int]]:
    """Bytes of a block, blocks of a request that hold states, and the blocks of a request of so many tokens."""
    setting = settle(ask)
    groups, flying = stage_groups(ask, setting), in_flight(ask, setting)
    return (
        groups.bytes_per_block,
        groups.state_blocks,
        lambda context: groups.blocks_per_request(context, flying),
    )


def requests(ask: Ask) -> int:
    """Requests whose cache one rank holds."""
    return per_replica(ask)
