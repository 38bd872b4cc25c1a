"""vLLM: a share of the whole card, from which weights, profile run and paged KV cache are paid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.engines import vllm_parts as parts
from vram_planner.engines.base import Ask, Capacity, Memory, largest
from vram_planner.engines.layouts import check_layout, named_device, per_replica, replica_warning
from vram_planner.engines.served import how_served
from vram_planner.engines.vllm_bnb import as_loaded
from vram_planner.engines.vllm_encoder import TOWER, WITHOUT_PICTURES
from vram_planner.engines.vllm_features import feature_parts, launch_words, not_modelled, settled
from vram_planner.engines.vllm_held import VOCABULARY_MULTIPLE
from vram_planner.engines.vllm_log import Pool, log_lines
from vram_planner.engines.vllm_offload import in_host_memory, offloaded_bytes, on_card
from vram_planner.engines.vllm_rules import caches_prefixes, card_defaults, release_of, states_left_out
from vram_planner.engines.vllm_setting import (
    Setting,
    fullest_stage,
    in_flight,
    settle,
    stage_groups,
    utilization,
)
from vram_planner.units import format_gib

if TYPE_CHECKING:
    from collections.abc import Hashable

    from vram_planner.engines.vllm_profile_run import Peak

_VOLTA = 7
_LONGEST = 1 << 27
_FROM_POOL = ("kv_cache", "recurrent_state")
_NOT_MODELLED = ("sleep mode and other processes on the card",)


class Vllm:
    """
    vLLM (V1 engine). The budget is `gpu_memory_utilization` × total memory of the card.

    KV pool = budget − weights − activation peak of the profile run − non-torch memory
    [− estimate of the CUDA graphs, from 0.20 on]; what the context and, before 0.20, the graphs
    take comes on top of the budget.
    Source: vllm/v1/worker/gpu_worker.py determine_available_memory.
    """

    name = "vllm"
    title = "vLLM"
    vendors = ("nvidia", "amd")
    splits_tensors = True
    families = "vllm"
    gguf = "experimental"
    smaller = ("awq", "fp8")
    speed_of = "vllm"
    attention_groups = None
    kinds = frozenset({"state", "indexer", "chunked", "mixed_heads", "compressed"})
    vocabulary_multiple = VOCABULARY_MULTIPLE

    def alike(self, ask: Ask) -> Hashable:
        """Defaults go by size and name, workspaces and block size by generation, the V1 sampler by multiprocessors."""
        device = named_device(ask)
        # Kernels of 4-bit matrices and experts differ below 8, at 8, and from 9 on with each.
        generation = max(device.compute_capability[0], _VOLTA) if device.compute_capability else None
        profile = release_of(ask).profile
        defaults = None if profile.get("v0") else card_defaults(profile, device)
        maker = device.name.partition(" ")[0]  # AMD's libraries take more
        return (defaults, generation, maker, device.multiprocessors if profile["sampler"] == "v1" else None)

    def usable_bytes(self, ask: Ask) -> int:
        """gpu_memory_utilization × total; the whole card where the pool is fixed."""
        if ask.options.kv_cache_memory:
            return named_device(ask).total_bytes
        return int(named_device(ask).total_bytes * utilization(ask, release_of(ask).profile))

    def memory(self, ask: Ask) -> Memory:
        """See `Engine.memory`. Raises ParallelError, PrecisionError or RequestError."""
        check_layout(ask)
        ask = settled(as_loaded(ask))
        setting = settle(ask)
        stage = fullest_stage(ask, setting)
        peak = parts.profile_peak(ask, setting)
        return Memory(
            parts=(
                on_card(parts.weights_part(ask, stage, setting), ask, stage.index),
                *feature_parts(ask, setting),
                parts.kv_part(ask, stage),
                *parts.state_part(ask, stage),
                parts.buffers_part(ask, stage, setting),
                parts.activation_part(ask, setting, peak),
                parts.graphs_part(ask, setting),
                parts.runtime_part(ask, setting),
            ),
            kv=stage.need,
            settings={
                "engine_version": setting.profile["title"],
                "gpu_memory_utilization": setting.utilization,
                "max_num_batched_tokens": setting.tokens,
                "max_num_seqs": setting.requests,
                "block_size": stage.groups.block,
                "kv_dtype": setting.kv_dtype,
                "prefix_caching": caches_prefixes(ask, setting.profile),
                **in_host_memory(ask),
            },
            launch=_launch(ask, setting),
            not_modelled=(*not_modelled(ask), *states_left_out(ask, setting.profile), *_not_modelled(ask)),
            warnings=_warnings(ask, setting, peak),
        )

    def capacity(self, ask: Ask, memory: Memory) -> Capacity:
        """See `Engine.capacity`: blocks are what the stage with least room for them holds."""
        ask = settled(as_loaded(ask))
        setting = settle(ask)
        groups = stage_groups(ask, setting)
        usable = self.usable_bytes(ask)
        fixed = sum(part.budgeted_bytes for part in memory.parts if part.name not in _FROM_POOL)
        pool, block_bytes = least_room(ask, setting, usable - fixed)
        blocks = pool // block_bytes
        flying = in_flight(ask, setting)
        if setting.profile["concurrency_by_length"]:
            concurrency = blocks * groups.tokens_per_block / ask.workload.context
        else:
            concurrency = blocks / groups.blocks_per_request(ask.workload.context, flying)

        def fits(context: int) -> bool:
            return groups.blocks_per_request(context, flying) * per_replica(ask) <= blocks

        if setting.profile.get("tokens_by_concurrency"):
            tokens = int(concurrency * ask.workload.context)
        else:
            tokens = blocks // len(groups.kinds) * groups.tokens_per_block
        shown = Pool(pool, block_bytes, tokens, concurrency)
        return Capacity(
            usable_bytes=usable,
            rule=_rule(ask, setting),
            kv_pool_bytes=pool,
            num_blocks=blocks,
            kv_cache_tokens=tokens,
            max_concurrency=concurrency,
            find_longest=lambda: largest(
                fits, min(blocks * groups.tokens_per_block, _LONGEST) if ask.architecture.caches else _LONGEST
            ),
            log_lines=log_lines(ask, setting, memory, groups, shown),
        )


def least_room(ask: Ask, setting: Setting, room: int) -> tuple[int, int]:
    """
    Pool and bytes a block of the pipeline stage that holds the fewest blocks: all stages take as many.

    `room` is what the fullest stage has; another has more by what its weights are fewer.
    Source: vLLM 0.32 v1/core/kv_cache_utils.py, get_kv_cache_configs (min_num_blocks).
    """
    groups, stage = stage_groups(ask, setting), fullest_stage(ask, setting)
    if ask.options.kv_cache_memory:
        return ask.options.kv_cache_memory, groups.bytes_per_block
    if ask.layout.pp == 1:
        return max(0, room), groups.bytes_per_block
    full = stage.weights_bytes - offloaded_bytes(ask, stage.index)
    pools = (
        (max(0, room + full - weights + offloaded_bytes(ask, index)), groups.on_stage(index))
        for index, weights in enumerate(stage.all_weights)
    )
    return min((pool for pool in pools if pool[1]), key=lambda pool: pool[0] // pool[1])


def _rule(ask: Ask, setting: Setting) -> str:
    if ask.options.kv_cache_memory:
        return "the whole card: --kv-cache-memory fixes the pool"
    total = format_gib(named_device(ask).total_bytes)
    return f"{setting.utilization:g} × {total} GiB (gpu_memory_utilization)"


def _not_modelled(ask: Ask) -> tuple[str, ...]:
    if ask.architecture.towers and ask.architecture.eye is None:
        return ("the profile run of this model's vision or audio tower", *_NOT_MODELLED)
    return _NOT_MODELLED


def _warnings(ask: Ask, setting: Setting, peak: Peak) -> tuple[str, ...]:
    found = [*setting.warnings, *replica_warning(ask)]
    if (
        ask.layout.tp > 1
        and how_served("vllm", "vLLM", ask.architecture.model_type, ask.options.version).uncut
    ):
        found.append(
            f"transformers has no plan to cut {ask.architecture.model_type} for tensor parallelism: vLLM cuts what it"
            " can and copies the rest to every rank, so the weights of a rank may be nearly the whole model's"
        )
    if setting.requests < per_replica(ask):
        found.append(f"max_num_seqs {setting.requests} is below the asked concurrency: the rest would queue")
    if peak.stage == TOWER:
        found.append(
            f"the vision tower sets the activation peak; for text alone start with {WITHOUT_PICTURES}"
        )
    return tuple(found)


def _launch(ask: Ask, setting: Setting) -> str:
    options, layout = ask.options, ask.layout
    words = ["vllm serve {model}", f"--max-model-len {ask.workload.context}"]
    shown = {
        "--max-num-seqs": options.max_num_seqs
        or (setting.requests if setting.requests == per_replica(ask) else None),
        "--max-num-batched-tokens": options.max_num_batched_tokens,
        "--gpu-memory-utilization": options.gpu_memory_utilization,
        "--block-size": options.block_size,
        "--kv-cache-dtype": None if options.kv_dtype == "auto" else options.kv_dtype,
        "--tensor-parallel-size": layout.tp if layout.tp > 1 else None,
        "--pipeline-parallel-size": layout.pp if layout.pp > 1 else None,
        "--data-parallel-size": layout.dp if layout.dp > 1 else None,
    }
    words += [f"{flag} {value}" for flag, value in shown.items() if value is not None]
    if layout.expert_parallel:
        words.append("--enable-expert-parallel")
    if options.enforce_eager:
        words.append("--enforce-eager")
    words += launch_words(ask)
    return " ".join(words)
