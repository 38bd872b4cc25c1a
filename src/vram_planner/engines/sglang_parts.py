"""The parts of SGLang's memory: what is loaded, the pool, and what lives in the rest of the card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.attention import Latent
from vram_planner.architecture.feed_forward import DenseMLP, MixtureOfExperts
from vram_planner.architecture.parallel import padded_vocabulary
from vram_planner.basis import Basis, Part
from vram_planner.engines.layouts import per_replica
from vram_planner.engines.sglang_defaults import Defaults, profile_of, runs_vision
from vram_planner.engines.sglang_free import context_of, planned_requests, request_table_bytes, slack_of
from vram_planner.engines.sglang_pool import Rank, state_bytes_of
from vram_planner.units import GIB, MIB, ceil_div, format_gib

if TYPE_CHECKING:
    from vram_planner.engines.base import Ask, KvNeed

_CODE = "https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt"
POOL_SOURCE = f"{_CODE}/mem_cache/kv_cache_configurator.py"
CELL_SOURCE = f"{_CODE}/model_executor/pool_configurator.py"
RESERVE_SOURCE = f"{_CODE}/arg_groups/memory_hook.py"
WEIGHT_SOURCE = f"{_CODE}/layers/vocab_parallel_embedding.py"
RECORD_SOURCE = "https://github.com/sgl-project/sglang/issues/6753"
FREE_SOURCE = "https://github.com/sgl-project/sglang/issues/3765"

# Llama-3-8B on an H200 logged 2.51 GiB for its graphs, Qwen2.5-0.5B 0.07.
_GRAPHS_LEAST, _GRAPHS_MOST = 0.07, 2.6
_LOW_ACTIVATIONS = 0.5


def weights_part(ask: Ask, rank: Rank) -> Part:
    """The model's tensors on the fullest rank."""
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


def kv_part(ask: Ask, rank: Rank, need: KvNeed) -> Part:
    """Slots for the asked tokens; what the sizing does not count of them lies outside the budget."""
    cells = rank.pool.cells
    up, down = cells.share
    windows = (
        "" if cells.window is None else f", sliding layers at {up / down:g} slots and {cells.window:,} tokens"
    )
    if cells.extra:
        windows += f", {cells.extra:,} slots a request for an image or drafted tokens"
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
        outside_bytes=cells.beyond(cells.slots(ask.workload.context) * per_replica(ask)),
    )


def state_parts(ask: Ask, rank: Rank) -> tuple[Part, ...]:
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


def activation_part(ask: Ask, defaults: Defaults) -> Part:
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


def graphs_part(defaults: Defaults) -> Part:
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


def runtime_bytes(ask: Ask) -> tuple[int, int, int, int]:
    """Best, low and high of `runtime_part`, and what of them lies outside the budget."""
    table = request_table_bytes(ask, planned_requests(ask))
    outside = context_of(ask)
    best, low, high = (
        int(gone * GIB) + int(kept * GIB) + picture_bytes(ask) + table
        for gone, kept in zip(outside, slack_of(ask), strict=True)
    )
    return best, low, high, int(outside[0] * GIB) + table


def picture_bytes(ask: Ask) -> int:
    """What is set aside for images (SGLANG_VLM_CACHE_SIZE_MB) where the release runs the model's encoder."""
    profile = profile_of(ask.options.version)
    if not runs_vision(ask.architecture.vision, profile):
        return 0
    return int(profile["vision"]["reserve_mib"]) * MIB


def runtime_part(ask: Ask) -> Part:
    """
    What is gone before the load and the table of requests lie outside the budget; what the load takes beside tensors, inside.

    Source of the table: `request_table_bytes`.
    """
    requests, pictures = planned_requests(ask), picture_bytes(ask)
    table = request_table_bytes(ask, requests)
    best, low, high, outside = runtime_bytes(ask)
    return Part(
        name="runtime",
        n_bytes=best,
        basis=Basis.MEASURED,
        source=FREE_SOURCE,
        detail=f"{context_of(ask)[0]:g} GiB gone before the load (CUDA context, NCCL between ranks) and {slack_of(ask)[0]:g} GiB "
        f"that the load takes beside the tensors, as public logs have them; {format_gib(table)} GiB for the table "
        f"of {requests:,} requests"
        + (f"; {pictures // MIB} MiB set aside for images (SGLANG_VLM_CACHE_SIZE_MB)" if pictures else ""),
        low_bytes=low,
        high_bytes=high,
        outside_bytes=outside,
    )
