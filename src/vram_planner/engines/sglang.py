"""SGLang: weights and the token pool share a fraction of what was free before the load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.engines.base import Capacity, Memory, largest
from vram_planner.engines.layouts import check_layout, per_replica, replica_warning
from vram_planner.engines.sglang_cells import default_page
from vram_planner.engines.sglang_defaults import Defaults, Setup, defaults_for, profile_of
from vram_planner.engines.sglang_free import context_of, free_bytes
from vram_planner.engines.sglang_log import log_lines
from vram_planner.engines.sglang_parts import (
    activation_part,
    graphs_part,
    kv_part,
    runtime_part,
    state_parts,
    weights_part,
)
from vram_planner.engines.sglang_pool import Rank, fullest, need_of
from vram_planner.engines.sglang_sparse import chooses_by_card
from vram_planner.units import GIB, format_gib

if TYPE_CHECKING:
    from collections.abc import Hashable

    from vram_planner.basis import Part
    from vram_planner.engines.base import Ask

_FROM_POOL = ("kv_cache", "recurrent_state")

NOT_MODELLED = (
    "prefix sharing (radix cache): every request is counted whole",
    "DeepEP's buffers",
    "attention backends that are asked for, and their pages of 32 to 128 tokens",
)


class Sglang:
    """
    SGLang's runtime (SRT). Static budget = mem_fraction_static × memory free before the load.

    Token pool = static budget − weights; activations and CUDA graphs live in the rest of the card.
    Source: KVCacheConfigurator._profile_available_bytes, mem_cache/kv_cache_configurator.py.
    """

    name = "sglang"
    title = "SGLang"
    vendors = ("nvidia", "amd")
    splits_tensors = True
    families = "sglang"
    gguf = "no"
    smaller = ("awq", "fp8_e5m2")
    speed_of = "sglang"
    attention_groups = "dp"
    kinds: frozenset[str] = frozenset({"state", "indexer", "chunked", "cross", "compressed", "mixed_heads"})
    vocabulary_multiple = 64

    def alike(self, ask: Ask) -> Hashable:
        """The default fraction, one of the settings, follows from the exact size; pages and sparse rows from the chip."""
        if ask.device is None:
            return None
        page = default_page(ask, profile_of(ask.options.version))
        return ask.device.total_bytes, ask.device.nvml_bytes, chooses_by_card(ask), page, context_of(ask)

    def usable_bytes(self, ask: Ask) -> int:
        """mem_fraction_static × (total − what is gone before the load)."""
        ask = completed(ask)
        return int(free_bytes(ask) * _fraction(ask))

    def memory(self, ask: Ask) -> Memory:
        """See `Engine.memory`. Raises ParallelError, RequestError or UnsupportedArchitectureError."""
        check_layout(ask)
        ask = completed(ask)
        rank, defaults = fullest(ask), defaults_of(ask)
        work, need = ask.workload, need_of(rank.pool, ask)
        parts = (
            weights_part(ask, rank),
            *beside_parts(ask),
            kv_part(ask, rank, need),
            *state_parts(ask, rank),
            activation_part(ask, defaults),
            graphs_part(defaults),
            runtime_part(ask),
        )
        return Memory(
            parts=parts,
            kv=need,
            settings={
                "engine_version": profile_of(ask.options.version)["title"],
                "mem_fraction_static": _fraction(ask),
                "chunked_prefill_size": defaults.chunk,
                "cuda_graph_max_bs": defaults.graph_batch,
                "max_running_requests": ask.options.max_num_seqs,
                "page_size": rank.pool.cells.page,
                "kv_dtype": ask.options.kv_dtype,
                "context_length": work.context,
            },
            launch=_launch(ask),
            not_modelled=NOT_MODELLED,
            warnings=_warnings(ask, rank, parts),
        )

    def capacity(self, ask: Ask, memory: Memory) -> Capacity:
        """See `Engine.capacity`: the pool is what the static budget leaves beside the weights."""
        ask = completed(ask)
        rank = fullest(ask)
        pool, usable, batch = rank.pool, self.usable_bytes(ask), per_replica(ask)
        cells = pool.cells
        fixed = sum(part.budgeted_bytes for part in memory.parts if part.name not in _FROM_POOL)
        budget = max(0, usable - fixed)
        held = pool.requests(budget, ask.workload.context)
        tokens = pool.tokens(budget)
        if tokens is None:
            tokens = int(held) * cells.slots(ask.workload.context)
        return Capacity(
            usable_bytes=usable,
            rule=f"{_fraction(ask):g} × {format_gib(free_bytes(ask))} GiB free before the load (mem_fraction_static"
            + ("" if ask.options.gpu_memory_utilization else f"; {defaults_of(ask).rule}")
            + ")",
            kv_pool_bytes=budget + cells.beyond(tokens),
            num_blocks=tokens // cells.page,
            kv_cache_tokens=tokens,
            max_concurrency=held,
            find_longest=lambda: largest(lambda context: pool.requests(budget, context) >= batch, tokens),
            log_lines=log_lines(ask, rank, memory, tokens, budget),
        )


def completed(ask: Ask) -> Ask:
    """The ask with what speculation sets; the common case loads nothing of it."""
    if ask.options.speculative is None and ask.options.speculative_tokens is None and ask.draft is None:
        return ask
    from vram_planner.engines.sglang_draft import speculating  # noqa: PLC0415  rarely asked for

    return speculating(ask)


def _draft_parts(ask: Ask) -> tuple[Part, ...]:
    if ask.options.speculative is None:
        return ()
    from vram_planner.engines.sglang_draft import draft_parts  # noqa: PLC0415  rarely asked for

    return draft_parts(ask)


def beside_parts(ask: Ask) -> tuple[Part, ...]:
    """What is loaded beside the model, whatever the workload: a draft, adapters."""
    return (*_draft_parts(ask), *_lora_parts(ask))


def _lora_parts(ask: Ask) -> tuple[Part, ...]:
    if not ask.options.max_loras:
        return ()
    from vram_planner.engines.sglang_lora import lora_parts  # noqa: PLC0415  rarely asked for

    return lora_parts(ask)


def _drafting_gib(ask: Ask) -> float:
    if ask.options.speculative is None:
        return 0.0
    from vram_planner.engines.sglang_draft import reserve_gib  # noqa: PLC0415  rarely asked for

    return reserve_gib(ask, profile_of(ask.options.version))


def _draft_flags(ask: Ask) -> dict[str, object]:
    if ask.options.speculative is None:
        return {}
    from vram_planner.engines.sglang_draft import launch_flags  # noqa: PLC0415  rarely asked for

    return launch_flags(ask)


def defaults_of(ask: Ask) -> Defaults:
    """What this release sets on the card of the ask."""
    architecture, layout = ask.architecture, ask.layout
    setup = Setup(
        tp=layout.tp,
        pp=layout.pp,
        attention_dp=layout.attention_dp,
        chunk=ask.options.max_num_batched_tokens,
        running=ask.options.max_num_seqs,
        mla=any(cache.latent for cache, _ in architecture.caches),
        model_type=architecture.model_type,
        vision=architecture.vision,
        drafting_gib=_drafting_gib(ask),
    )
    return defaults_for(ask.options.version, _nominal_bytes(ask), setup)


def _nominal_bytes(ask: Ask) -> int | None:
    """
    The total that the defaults go by: nvidia-smi's, where it is known, which is a little more than torch's.

    Source: get_nvgpu_memory_capacity, utils/common.py.
    """
    return None if ask.device is None else ask.device.nvml_bytes or ask.device.total_bytes


def _fraction(ask: Ask) -> float:
    return ask.options.gpu_memory_utilization or defaults_of(ask).fraction


def _launch(ask: Ask) -> str:
    options, layout = ask.options, ask.layout
    kv_dtype = {"auto": None, "fp8": "fp8_e4m3", "bfloat16": "bfloat16"}.get(
        options.kv_dtype, options.kv_dtype
    )
    shown = {
        "--context-length": ask.workload.context,
        "--tp": layout.tp if layout.tp > 1 else None,
        "--pp": layout.pp if layout.pp > 1 else None,
        "--dp": layout.dp * layout.attention_dp if layout.dp * layout.attention_dp > 1 else None,
        "--enable-dp-attention": "" if layout.attention_dp > 1 else None,
        "--ep": layout.tp if layout.expert_parallel else None,
        "--mem-fraction-static": options.gpu_memory_utilization,
        "--chunked-prefill-size": options.max_num_batched_tokens,
        "--max-running-requests": options.max_num_seqs,
        "--page-size": options.block_size,
        "--kv-cache-dtype": kv_dtype,
        "--max-total-tokens": None if ask.architecture.caches else ask.workload.context * per_replica(ask),
        "--enable-lora": "" if options.max_loras else None,
        "--max-loras-per-batch": options.max_loras or None,
        "--max-lora-rank": options.max_lora_rank if options.max_loras else None,
        **_draft_flags(ask),
    }
    words = ["python -m sglang.launch_server --model-path {model}"]
    return " ".join(words + [f"{flag} {value}".strip() for flag, value in shown.items() if value is not None])


def _warnings(ask: Ask, rank: Rank, parts: tuple[Part, ...]) -> tuple[str, ...]:
    return (*replica_warning(ask), *_starved(ask, parts), *_lopsided(ask, rank))


def _starved(ask: Ask, parts: tuple[Part, ...]) -> tuple[str, ...]:
    if ask.device is None:
        return ()
    beside = sum(part.n_bytes for part in parts if part.name in {"activations", "cuda_graphs"})
    left = free_bytes(ask) - int(free_bytes(ask) * _fraction(ask))
    if beside <= left:
        return ()
    text = (
        f"mem_fraction_static {_fraction(ask):g} leaves {format_gib(left)} GiB for activations and graphs, "
        f"which may need {format_gib(beside)} GiB"
    )
    return (text,)


def _lopsided(ask: Ask, rank: Rank) -> tuple[str, ...]:
    """That another --mamba-full-memory-ratio would do with less, where states or tokens get much more than they use."""
    states, cells = rank.pool.states, rank.pool.cells
    if states is None or not cells.unit_bytes:
        return ()
    batch = per_replica(ask)
    used = (batch * states.per_request + states.spare) * states.slot_bytes
    tokens = cells.n_bytes(cells.slots(ask.workload.context) * batch)
    saved = sum(rank.pool.need(ask.workload.context, batch)) - used - tokens
    if saved < GIB:
        return ()
    text = (
        f"states and tokens share the pool 0.9 to 1; --mamba-full-memory-ratio {max(used / tokens, 0.001):.3g} "
        f"would need {format_gib(saved)} GiB less for this workload"
    )
    return (text,)
