"""What a version of vLLM makes of an ask: its profile, the options after defaults, the fullest stage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vram_planner.engines import vllm_cache
from vram_planner.engines.base import KvNeed
from vram_planner.engines.layouts import per_replica
from vram_planner.engines.vllm_context import check_context_parallel, shared_out
from vram_planner.engines.vllm_features import caching
from vram_planner.engines.vllm_rules import batches_in_flight, card_defaults, release_of
from vram_planner.engines.vllm_stages import stage_weights

if TYPE_CHECKING:
    from vram_planner.engines.base import Ask
    from vram_planner.engines.versions import Profile
    from vram_planner.engines.vllm_groups import Groups

_V0_REQUESTS, _V0_LEAST, _V0_LONGEST = 256, 2048, 32_768


@dataclass(frozen=True, eq=False, repr=False)
class Setting:
    """What a version of vLLM does with an ask: its profile and the options after defaults."""

    profile: Profile
    warnings: tuple[str, ...]
    utilization: float
    tokens: int
    requests: int
    block: int
    kv_bytes: int
    kv_dtype: str

    @property
    def title(self) -> str:
        """As printed: vLLM 0.32."""
        return f"vLLM {self.profile['title']}"


def settle(ask: Ask) -> Setting:
    """The profile of the version, and every option after its defaults, which go by card."""
    profile, warnings = release_of(ask)
    options = ask.options
    if profile.get("v0"):
        tokens, most = _v0_tokens(ask, profile), _V0_REQUESTS
    else:
        tokens, most = card_defaults(profile, ask.device)
    requests = options.max_num_seqs or max(most, per_replica(ask))
    if profile.get("tokens_within_requests"):
        tokens = min(tokens, requests * ask.workload.context)
    tokens = options.max_num_batched_tokens or tokens
    kv_dtype = vllm_cache.kv_dtype_of(ask, profile["stored_kv_types"])
    return Setting(
        profile=profile,
        warnings=warnings,
        utilization=utilization(ask, profile),
        tokens=tokens,
        requests=min(requests, tokens),
        block=options.block_size or vllm_cache.default_block_size(ask, kv_dtype, profile),
        kv_bytes=vllm_cache.element_bytes(kv_dtype, ask.precision.element_bytes),
        kv_dtype=kv_dtype,
    )


def _v0_tokens(ask: Ask, profile: Profile) -> int:
    """
    The V0 engine profiles a whole context, unless it is long enough for chunked prefill.

    Windows, latent attention, adapters and drafting have no chunks, nor from 0.6.2 on has a model that sees.
    Source: engine/arg_utils.py, create_engine_config (_set_default_args_v0 from 0.8 on); config.py, SchedulerConfig.
    """
    context, chunk, model = ask.workload.context, profile["whole_prompts"], ask.architecture
    seeing = int(profile["picture_tokens"]) if model.towers else 0
    whole = (
        chunk is None
        or context <= _V0_LONGEST
        or bool(model.towers and not profile["pictures_in_chunks"])
        or all(cache.window for cache, _ in model.caches)
        or any(cache.latent for cache, _ in vllm_cache.held_caches(ask, profile["latent"]))
        or bool(ask.options.max_loras or ask.options.speculative)
    )
    return max(context, _V0_LEAST, seeing) if whole else max(int(chunk), seeing)


def utilization(ask: Ask, profile: Profile) -> float:
    """gpu_memory_utilization: as asked, else the version's default."""
    return ask.options.gpu_memory_utilization or float(profile["utilization"])


def in_flight(ask: Ask, setting: Setting) -> int:
    """Tokens scheduled but not settled: those of every batch that runs at once."""
    return setting.tokens * batches_in_flight(ask, setting.profile)


def stage_groups(ask: Ask, setting: Setting) -> Groups:
    """How this version groups the layers of the model, and of what drafts for it."""
    groups = vllm_cache.group_layers(
        caching(ask),
        block=setting.block,
        kv_bytes=setting.kv_bytes,
        rules=setting.profile,
    )
    return shared_out(groups, check_context_parallel(ask))


@dataclass(frozen=True, eq=False, repr=False)
class Stage:
    """
    The fullest pipeline stage: its weights and what the asked workload needs on it.

    `index` is its number, `all_weights` are the bytes of the weights on each stage.
    """

    weights_bytes: int
    need: KvNeed
    groups: Groups
    blocks: int
    index: int
    all_weights: tuple[int, ...]


def fullest_stage(ask: Ask, setting: Setting) -> Stage:
    """The stage with the most weights and blocks together, and what the asked workload needs there."""
    groups = stage_groups(ask, setting)
    flying, context, tp = in_flight(ask, setting), ask.workload.context, ask.layout.tp
    blocks = groups.blocks_per_request(context, flying)
    every = stage_weights(ask)
    held = per_replica(ask) * blocks
    index = max(range(len(every)), key=lambda stage: every[stage] + held * groups.on_stage(stage))
    groups = replace(groups, bytes_per_block=groups.on_stage(index))
    slope = groups.blocks_per_request(context + groups.tokens_per_block, flying) - blocks
    request = (blocks - groups.state_blocks) * groups.bytes_per_block
    need = KvNeed(
        bytes_per_token=slope * groups.bytes_per_block // groups.tokens_per_block,
        bytes_per_request=request,
        n_bytes=request * per_replica(ask),
        replicated_ranks=min(
            (
                cache.ranks_holding_each_head(tp)
                for cache, _ in vllm_cache.held_caches(ask, setting.profile.get("latent"))
            ),
            default=1,
        )
        // check_context_parallel(ask)
        or 1,
    )
    return Stage(every[index], need, groups, blocks, index, every)
