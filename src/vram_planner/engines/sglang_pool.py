"""SGLang's static pool: tokens, and slots of states beside them; how many requests it holds, how much a workload needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from vram_planner.architecture.parallel import rank_weight_bytes, stage_layers
from vram_planner.engines.base import KvNeed
from vram_planner.engines.layouts import per_replica, replica
from vram_planner.engines.sglang_cells import Cells, cache_of, element_bytes, plain_cells
from vram_planner.engines.sglang_defaults import Profile, profile_of
from vram_planner.engines.sglang_sparse import compressed_cells, sparse_cells
from vram_planner.engines.sglang_state import States, states_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vram_planner.architecture.model import Architecture, Layer
    from vram_planner.engines.base import Ask

_ANGLE_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """
    What weights leave of the static budget on one rank: cells for tokens, and slots for states where there are any.

    A model of states alone needs tokens too, but they cost nothing: the launch command sets their number.
    """

    cells: Cells
    states: States | None
    replicated: int

    def tokens(self, budget: int) -> int | None:
        """Slots for tokens; None where they cost nothing."""
        if not self.cells.unit_bytes:
            return None
        beside = 0 if self.states is None else self.states.taken(budget)
        return self.cells.held(budget - beside - self.cells.fixed_bytes)

    def requests(self, budget: int, context: int) -> float:
        """Requests of `context` tokens that it holds at once."""
        tokens = self.tokens(budget)
        by_states = None if self.states is None else self.states.requests(budget)
        by_tokens = None if tokens is None else tokens / self.cells.slots(context)
        return min(value for value in (by_states, by_tokens) if value is not None)

    def need(self, context: int, requests: int) -> tuple[int, int]:
        """
        Bytes of tokens and of states of the smallest budget that holds the requests.

        States and tokens share a budget 9 to 10, so whichever needs less gets more than it uses.
        """
        tokens = self.cells.n_bytes(self.cells.slots(context) * requests) + self.cells.fixed_bytes
        if self.states is None:
            return tokens, 0
        budget = self.states.least_budget(requests, tokens)
        taken = self.states.taken(budget)
        return budget - taken, taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """The fullest pipeline stage's rank: its weights, its pool, its layers."""

    weights_bytes: int
    pool: Pool
    layers: int


def _cells(layers: list[tuple[Layer, int]], ask: Ask, profile: Profile) -> Cells:
    """
    The pool of these layers, by what the model is: compressed, sparse, or plain with or without a window pool.

    Source: create_memory_pool_configurator, model_executor/pool_configurator.py.
    """
    kinds = ask.architecture.kinds
    if "compressed" in kinds:
        return compressed_cells(layers, ask, profile)
    cells = (sparse_cells if "indexer" in kinds else plain_cells)(layers, ask, profile)
    if ask.options.speculative is None:
        return cells
    from vram_planner.engines.sglang_draft import drafted, with_draft  # noqa: PLC0415  rarely asked for

    caches = [(cache, count) for layer, count in layers if (cache := cache_of(layer.mixer)) is not None]
    whole = next((cache for cache, _ in caches if cache.window is None), None)
    row = 0 if whole is None else whole.elements_per_token(ask.layout.attention_tp) * element_bytes(ask)
    held = with_draft(cells, ask, sum(count for _, count in caches), row)
    return replace(held, extra=held.extra + drafted(ask))


def _drafted(ask: Ask) -> int:
    if ask.options.speculative is None:
        return 0
    from vram_planner.engines.sglang_draft import drafted  # noqa: PLC0415  rarely asked for

    return drafted(ask)


def stage_ranks(ask: Ask) -> list[Rank]:
    """A rank of each pipeline stage, whatever the workload."""
    architecture, layout = ask.architecture, ask.layout
    profile = profile_of(ask.options.version)
    caches = [cache_of(layer.mixer) for layer, _ in architecture.groups]
    replicated = max(
        (cache.ranks_holding_each_head(layout.attention_tp) for cache in caches if cache), default=1
    )
    # What waits in DeepSeek-V4's compressors is no slot of its own: its pools hold it.
    states = None if "compressed" in architecture.kinds else states_of(ask, profile, _drafted(ask))
    weights = rank_weight_bytes(architecture, ask.precision, replica(ask), vocabulary_multiple=64)
    angles = _angle_bytes(architecture)
    ranks, start = [], 0
    for count, n_bytes in zip(stage_layers(len(architecture.layers), layout.pp), weights, strict=True):
        layers = list(architecture.groups)
        if layout.pp > 1:
            layers = [(layer, 1) for layer in architecture.layers[start : start + count]]
        pool = Pool(cells=_cells(layers, ask, profile), states=states, replicated=replicated)
        ranks.append(Rank(weights_bytes=n_bytes + angles * count, pool=pool, layers=count))
        start += count
    return ranks


def fullest(ask: Ask, ranks: Sequence[Rank] | None = None) -> Rank:
    """The rank of the stage where weights and the asked cache take most; `ranks` are those of this ask, where they are known."""
    ranks = ranks or stage_ranks(ask)
    if len(ranks) == 1:
        return ranks[0]
    return max(ranks, key=lambda rank: rank.weights_bytes + sum(_needed(rank.pool, ask)))


def _angle_bytes(architecture: Architecture) -> int:
    """
    The table of rotary angles that a layer has of its own, on every rank: 4 B × positions × width of a head.

    Other models share one table. Source: sglang v0.5.2 srt/models/grok.py, Grok1Attention (ScalingRotaryEmbedding)
    and its _compute_cos_sin_cache; RotaryEmbedding keeps it in float32 on CUDA.
    """
    if not architecture.own_angles or architecture.max_context is None:
        return 0
    caches = (cache_of(layer.mixer) for layer, _ in architecture.groups)
    return _ANGLE_BYTES * architecture.max_context * max(cache.key_dim for cache in caches if cache)


def _needed(pool: Pool, ask: Ask) -> tuple[int, int]:
    return pool.need(ask.workload.context, per_replica(ask))


def need_of(pool: Pool, ask: Ask) -> KvNeed:
    """The asked workload in slots of this pool; the slope is taken over a page."""
    cells, context = pool.cells, ask.workload.context
    per_request = cells.n_bytes(cells.slots(context))
    more = cells.n_bytes(cells.slots(context + cells.page)) - per_request
    return KvNeed(
        bytes_per_token=more // cells.page,
        bytes_per_request=per_request,
        n_bytes=_needed(pool, ask)[0],
        replicated_ranks=pool.replicated,
    )


def state_bytes_of(pool: Pool, ask: Ask) -> int:
    """What the slots of states take that the asked workload needs."""
    return _needed(pool, ask)[1]
