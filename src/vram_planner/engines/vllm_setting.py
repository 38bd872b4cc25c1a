"""What a version of vLLM makes of an ask: its profile, the options after defaults, the fullest stage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vram_planner.engines import vllm_cache
from vram_planner.engines.base import KvNeed
from vram_planner.engines.layouts import per_replica
from vram_planner.engines.versions import Profile, profile_for
from vram_planner.engines.vllm_context import check_context_parallel, shared_out
from vram_planner.engines.vllm_features import caching
from vram_planner.engines.vllm_stages import stage_weights
from vram_planner.units import GIB

if TYPE_CHECKING:
    from vram_planner.engines.base import Ask
    from vram_planner.engines.vllm_groups import Groups

BIG_CARD = 70 * GIB
HUGE_CARD = 160 * GIB
_SMALL_DEFAULTS = {"max_num_batched_tokens": 2048, "max_num_seqs": 256}
_V0_LEAST, _V0_LONGEST, _V0_SEEING = 2048, 32_768, 5120


@dataclass(frozen=True, eq=False, repr=False)
class Setting:
    """What a version of vLLM does with an ask: its profile and the options after defaults."""

    profile: Profile
    warning: str | None
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
    profile, warning = profile_for("vllm", ask.options.version)
    options, defaults = ask.options, profile.get("small_card", _SMALL_DEFAULTS)
    if ask.device is not None:
        total, name = ask.device.total_bytes, ask.device.name.lower()
        if profile["huge_card"] and total >= HUGE_CARD:
            defaults = profile["huge_card"]
        elif total >= BIG_CARD and "a100" not in name and _named_big(profile, name):
            defaults = profile["big_card"]
    tokens = options.max_num_batched_tokens or defaults["max_num_batched_tokens"]
    if profile.get("v0") and options.max_num_batched_tokens is None:
        tokens = _v0_tokens(ask, int(profile["chunk"]))
    kv_dtype = vllm_cache.kv_dtype_of(ask, follows=profile.get("checkpoint_kv_dtype", False))
    requests = options.max_num_seqs or max(defaults["max_num_seqs"], per_replica(ask))
    return Setting(
        profile=profile,
        warning=warning,
        utilization=utilization(ask, profile),
        tokens=tokens,
        requests=min(requests, tokens),
        block=options.block_size or vllm_cache.default_block_size(ask, kv_dtype),
        kv_bytes=vllm_cache.element_bytes(kv_dtype, ask.precision.element_bytes),
        kv_dtype=kv_dtype,
    )


def _named_big(profile: Profile, name: str) -> bool:
    """0.8 went by the card's name alone (engine/arg_utils.py): H100 and H200, but no H20."""
    names = profile.get("big_names")
    return names is None or any(word in name for word in names)


def _v0_tokens(ask: Ask, chunk: int) -> int:
    """
    The V0 engine profiles a whole context, unless it is long enough for chunked prefill, which a model that sees has not.

    Source: engine/arg_utils.py and SchedulerConfig of 0.5.4 (chunks of 512) and 0.6.5 (2,048).
    """
    context = ask.workload.context
    if ask.architecture.towers:
        return max(context, _V0_SEEING)
    return max(context, _V0_LEAST) if context <= _V0_LONGEST else chunk


def utilization(ask: Ask, profile: Profile) -> float:
    """gpu_memory_utilization: as asked, else the version's default."""
    return ask.options.gpu_memory_utilization or float(profile["utilization"])


def in_flight(ask: Ask, setting: Setting) -> int:
    """Tokens scheduled but not settled: asynchronous scheduling keeps pp + 1 batches under way."""
    batches = setting.profile["in_flight_batches"] + ask.layout.pp - 1
    return int(setting.tokens * batches)


def stage_groups(ask: Ask, setting: Setting) -> Groups:
    """How this version groups the layers of the model, and of what drafts for it."""
    groups = vllm_cache.group_layers(
        caching(ask),
        block=setting.block,
        kv_bytes=setting.kv_bytes,
        hybrid=setting.profile["hybrid_allocator"],
        prefix_caching=_keeps_prefixes(ask, setting.profile),
    )
    return shared_out(groups, check_context_parallel(ask))


def _keeps_prefixes(ask: Ask, profile: Profile) -> bool:
    """
    Whether states are kept for prefixes too, as asked or by default.

    Source: is_prefix_caching_supported, config/model.py: False for hybrid models in 0.23.0, True in 0.28.1.
    """
    asked = ask.options.prefix_caching
    return bool(profile.get("state_prefixes", True)) if asked is None else asked


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
            (cache.ranks_holding_each_head(tp) for cache, _ in vllm_cache.held_caches(ask.architecture)),
            default=1,
        )
        // check_context_parallel(ask)
        or 1,
    )
    return Stage(every[index], need, groups, blocks, index, every)
