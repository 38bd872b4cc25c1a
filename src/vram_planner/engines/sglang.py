"""SGLang: weights and the token pool share a fraction of what was free before the load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.attention import Latent
from vram_planner.architecture.feed_forward import DenseMLP, MixtureOfExperts
from vram_planner.architecture.parallel import padded_vocabulary
from vram_planner.basis import Basis, Part
from vram_planner.engines.base import Capacity, Memory, largest
from vram_planner.engines.layouts import check_layout, named_device, per_replica, replica_warning
from vram_planner.engines.sglang_cells import default_page
from vram_planner.engines.sglang_defaults import Defaults, Setup, defaults_for, profile_of, runs_vision
from vram_planner.engines.sglang_pool import Rank, fullest, need_of, state_bytes_of
from vram_planner.engines.sglang_sparse import chooses_by_card
from vram_planner.units import GIB, MIB, ceil_div, format_gib

if TYPE_CHECKING:
    from collections.abc import Hashable

    from vram_planner.engines.base import Ask, KvNeed

_CODE = "https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt"
POOL_SOURCE = f"{_CODE}/mem_cache/kv_cache_configurator.py"
CELL_SOURCE = f"{_CODE}/model_executor/pool_configurator.py"
RESERVE_SOURCE = f"{_CODE}/arg_groups/memory_hook.py"
WEIGHT_SOURCE = f"{_CODE}/layers/vocab_parallel_embedding.py"
RECORD_SOURCE = "https://github.com/sgl-project/sglang/issues/6753"
FREE_SOURCE = "https://github.com/sgl-project/sglang/issues/3765"

# Total less "avail mem" before the load, in GiB: (best, low, high), the middle and the ends of public logs. One rank: A100-40
# 0.41, 4090 0.48, H200 0.60, H100 0.72, MI355X 0.8, 3090 under WSL 0.93. Several: A10 at 4 0.43, 4090 at 4 0.56, A100 PCIe at
# 2 0.76; where NVSwitch joins them NCCL takes buffers for NVLS and the custom all-reduce its own: H100 at 4 2.1 and at 8 2.46,
# H200 at 8 2.5, B200 at 4 3.0; MI355X at 8 4.5.
_CONTEXT_ONE, _CONTEXT_PCIE, _CONTEXT_SWITCHED = (0.6, 0.4, 0.95), (0.6, 0.4, 2.5), (2.5, 2.0, 4.5)
_CONTEXT_UNKNOWN = (0.9, 0.4, 3.0)
_SWITCHED = (9, 10)  # compute capabilities of Hopper and datacentre Blackwell
# "mem usage" of the load less the tensors' bytes on 18 records (best, low, high): allocator slack, rotary tables, libraries.
_LOAD_SLACK = (0.1, 0.02, 0.3)
# Llama-3-8B on an H200 logged 2.51 GiB for its graphs, Qwen2.5-0.5B 0.07.
_GRAPHS_LEAST, _GRAPHS_MOST = 0.07, 2.6
_LOW_ACTIVATIONS = 0.5
_FROM_POOL = ("kv_cache", "recurrent_state")

NOT_MODELLED = (
    "speculative decoding and its draft model",
    "prefix sharing (radix cache): every request is counted whole",
    "DeepEP's buffers",
    "attention backends that are asked for, and their pages of 32 to 128 tokens",
    "LoRA adapters",
    "speed with data parallel attention",
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
        return ask.device.total_bytes, chooses_by_card(ask), page, _context_of(ask)

    def usable_bytes(self, ask: Ask) -> int:
        """mem_fraction_static × (total − what is gone before the load)."""
        return int(_free_bytes(ask) * _fraction(ask))

    def memory(self, ask: Ask) -> Memory:
        """See `Engine.memory`. Raises ParallelError, RequestError or UnsupportedArchitectureError."""
        check_layout(ask)
        rank, defaults = fullest(ask), _defaults(ask)
        work, need = ask.workload, need_of(rank.pool, ask)
        parts = (
            _weights_part(ask, rank),
            _kv_part(ask, rank, need),
            *_state_parts(ask, rank),
            _activation_part(ask, defaults),
            _graphs_part(defaults),
            _runtime_part(ask),
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
        pool = fullest(ask).pool
        cells, usable, batch = pool.cells, self.usable_bytes(ask), per_replica(ask)
        fixed = sum(part.budgeted_bytes for part in memory.parts if part.name not in _FROM_POOL)
        budget = max(0, usable - fixed)
        held = pool.requests(budget, ask.workload.context)
        tokens = pool.tokens(budget)
        if tokens is None:
            tokens = int(held) * cells.slots(ask.workload.context)
        return Capacity(
            usable_bytes=usable,
            rule=f"{_fraction(ask):g} × {format_gib(_free_bytes(ask))} GiB free before the load (mem_fraction_static"
            + ("" if ask.options.gpu_memory_utilization else f"; {_defaults(ask).rule}")
            + ")",
            kv_pool_bytes=budget,
            num_blocks=tokens // cells.page,
            kv_cache_tokens=tokens,
            max_concurrency=held,
            max_context=largest(lambda context: pool.requests(budget, context) >= batch, tokens),
        )


def _defaults(ask: Ask) -> Defaults:
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
    )
    return defaults_for(ask.options.version, None if ask.device is None else ask.device.total_bytes, setup)


def _fraction(ask: Ask) -> float:
    return ask.options.gpu_memory_utilization or _defaults(ask).fraction


def _context(ask: Ask) -> tuple[int, int, int]:
    """Bytes that are gone before the load (best, low, high): CUDA context, and NCCL between ranks."""
    best, low, high = (int(value * GIB) for value in _context_of(ask))
    return best, low, high


def _context_of(ask: Ask) -> tuple[float, float, float]:
    if ask.layout.tp * ask.layout.pp == 1:
        return _CONTEXT_ONE
    if ask.device is None:
        return _CONTEXT_UNKNOWN
    capability = ask.device.compute_capability
    # AMD's accelerators have no such number, and a fabric.
    return _CONTEXT_SWITCHED if capability is None or capability[0] in _SWITCHED else _CONTEXT_PCIE


def _free_bytes(ask: Ask) -> int:
    return max(0, named_device(ask).total_bytes - _context(ask)[0])


def _weights_part(ask: Ask, rank: Rank) -> Part:
    layout = ask.layout
    groups = "" if layout.attention_dp == 1 else f", attention over {layout.attention_tp} of them"
    return Part(
        name="weights",
        n_bytes=rank.weights_bytes,
        basis=getattr(ask.precision, "basis", Basis.FORMULA),
        source=getattr(ask.precision, "source", WEIGHT_SOURCE),
        detail=f"{ask.architecture.parameters:,} parameters in {ask.precision.name}: the fullest of "
        f"tp {layout.tp} × pp {layout.pp}{groups}, vocabulary padded to 64 rows",
    )


def _kv_part(ask: Ask, rank: Rank, need: KvNeed) -> Part:
    cells = rank.pool.cells
    up, down = cells.share
    windows = (
        "" if cells.window is None else f", sliding layers at {up / down:g} slots and {cells.window:,} tokens"
    )
    if cells.extra:
        windows += f", {cells.extra:,} slots a request for an image"
    if cells.fixed_bytes:
        windows += f", and {format_gib(cells.fixed_bytes)} GiB for tokens that wait to be compressed"
    if rank.pool.states is not None:
        windows += "; at least 10/9 of the states' bytes"
    return Part(
        name="kv_cache",
        n_bytes=need.n_bytes,
        basis=Basis.FORMULA,
        source=CELL_SOURCE,
        detail=f"{per_replica(ask)} × {cells.slots(ask.workload.context):,} slots × "
        f"{cells.cell_bytes:,} B over {rank.layers} layers{windows}",
    )


def _state_parts(ask: Ask, rank: Rank) -> tuple[Part, ...]:
    """Slots of states, as many as the share of 0.9 to 1 beside the tokens makes of the smallest budget that will do."""
    states = rank.pool.states
    if states is None:
        return ()
    n_bytes = state_bytes_of(rank.pool, ask)
    part = Part(
        name="recurrent_state",
        n_bytes=n_bytes,
        basis=Basis.FORMULA,
        source=POOL_SOURCE,
        detail=f"{n_bytes // states.slot_bytes:,} slots × {states.slot_bytes:,} B; {states.per_request} slots a request, "
        "and at most 0.9 bytes for each byte of tokens (--mamba-full-memory-ratio)",
    )
    return (part,)


def _forward_bytes(ask: Ask, tokens: int) -> int:
    """
    One layer's widest moment for a chunk of T tokens: T·b·(3·I/tp + 4·H), or T·b·(k·(3·Ie/tp + 2·H) + 4·H) with experts.

    MLA's unabsorbed prefill adds heads/tp · (2·d_qk + 2·d_v). With data parallel attention T is a group's chunk in
    attention, and that of all groups together in the feed-forward block.
    """
    layout, hidden = ask.layout, ask.architecture.hidden
    unit, tp, groups = tokens * ask.precision.element_bytes, layout.tp, layout.attention_dp
    most = 0
    for layer, _ in ask.architecture.groups:
        block, width = layer.feed_forward, 0
        if isinstance(block, DenseMLP):
            width = 3 * ceil_div(block.intermediate, tp)
        elif isinstance(block, MixtureOfExperts):
            width = block.top_k * (3 * ceil_div(block.expert_intermediate, tp) + 2 * hidden)
        if isinstance(layer.mixer, Latent):
            mixer = layer.mixer
            heads = 2 * ceil_div(mixer.n_heads, layout.attention_tp)
            inside = heads * (mixer.nope_dim + mixer.rope_dim + mixer.value_dim)
            most = max(most, unit * (inside + 4 * hidden))
        most = max(most, unit * groups * (width + 4 * hidden))
    return most


def _activation_part(ask: Ask, defaults: Defaults) -> Part:
    """
    A forward of one chunk, or the logits of the largest graph batch: S · V · (b + 4).

    Assumed: no record gives it apart. The high end is what SGLang itself reserves, 512 MiB + 1.5 MiB a token.
    """
    forward = _forward_bytes(ask, defaults.chunk)
    vocabulary = padded_vocabulary(ask.architecture.vocabulary, 64)
    logits = defaults.graph_batch * vocabulary * (ask.precision.element_bytes + 4)
    best = max(forward, logits)
    return Part(
        name="activations",
        n_bytes=best,
        basis=Basis.ASSUMED,
        source=RESERVE_SOURCE,
        detail=f"forward of {defaults.chunk:,} tokens, or logits of {defaults.graph_batch} requests; high end: SGLang's "
        "own reserve of 512 MiB + 1.5 MiB a token",
        low_bytes=int(best * _LOW_ACTIVATIONS),
        high_bytes=max(best, 512 * MIB + int(1.5 * MIB * defaults.chunk * ask.layout.attention_dp)),
        in_budget=False,
    )


def _graphs_part(defaults: Defaults) -> Part:
    """SGLang reserves 2 MiB for each request of the largest graph; records: 0.07 and 2.51 GiB."""
    best = 2 * MIB * defaults.graph_batch
    return Part(
        name="cuda_graphs",
        n_bytes=best,
        basis=Basis.ASSUMED,
        source=RECORD_SOURCE,
        detail=f"2 MiB × {defaults.graph_batch} requests (cuda_graph_max_bs)",
        low_bytes=min(best, int(_GRAPHS_LEAST * GIB)),
        high_bytes=max(best, int(_GRAPHS_MOST * GIB)),
        in_budget=False,
    )


def _runtime_part(ask: Ask) -> Part:
    """What is gone before the load lies outside the budget; what the load takes beside the tensors, inside."""
    outside, slack = _context(ask), [int(value * GIB) for value in _LOAD_SLACK]
    profile, pictures = profile_of(ask.options.version), 0
    if runs_vision(ask.architecture.vision, profile):
        pictures = profile["vision"]["reserve_mib"] * MIB
    best, low, high = (gone + kept + pictures for gone, kept in zip(outside, slack, strict=True))
    return Part(
        name="runtime",
        n_bytes=best,
        basis=Basis.MEASURED,
        source=FREE_SOURCE,
        detail=f"{format_gib(outside[0])} GiB gone before the load (CUDA context, NCCL between ranks) and {_LOAD_SLACK[0]} GiB "
        "that the load takes beside the tensors, as public logs have them"
        + (f"; {pictures // MIB} MiB set aside for images (SGLANG_VLM_CACHE_SIZE_MB)" if pictures else ""),
        low_bytes=low,
        high_bytes=high,
        outside_bytes=outside[0],
    )


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
    }
    words = ["python -m sglang.launch_server --model-path {model}"]
    return " ".join(words + [f"{flag} {value}".strip() for flag, value in shown.items() if value is not None])


def _warnings(ask: Ask, rank: Rank, parts: tuple[Part, ...]) -> tuple[str, ...]:
    return (*replica_warning(ask), *_starved(ask, parts), *_lopsided(ask, rank))


def _starved(ask: Ask, parts: tuple[Part, ...]) -> tuple[str, ...]:
    if ask.device is None:
        return ()
    beside = sum(part.n_bytes for part in parts if part.name in {"activations", "cuda_graphs"})
    left = _free_bytes(ask) - int(_free_bytes(ask) * _fraction(ask))
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
