"""SGLang's token pool: what one slot costs on a rank, and how many slots a request needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vram_planner.architecture.parallel import rank_weight_bytes, stage_layers
from vram_planner.engines.base import KvNeed
from vram_planner.engines.layouts import per_replica
from vram_planner.engines.sglang_defaults import Profile, profile_of
from vram_planner.errors import RequestError, UnsupportedArchitectureError
from vram_planner.units import ceil_div, round_up

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vram_planner.architecture.cache import KvCache
    from vram_planner.architecture.model import Architecture
    from vram_planner.engines.base import Ask

_KV_BYTES = {"bfloat16": 2, "fp8": 1, "fp8_e5m2": 1, "fp8_e4m3": 1}
# A window's layers get 0.8 tokens for each token of the full layers (--swa-full-tokens-ratio), as a fraction.
_WINDOW_SHARE = (4, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """
    The token pool of one rank: bytes that each slot costs over all its layers, and how long windows keep theirs.

    With a window pool, slots of sliding layers are fewer by the share, so one cell costs full + 0.8 · sliding layers.
    """

    cell_bytes: int
    window: int | None
    page: int
    replicated: int

    def slots(self, context: int) -> int:
        """Cells that one request of `context` tokens needs."""
        tokens = round_up(context, self.page)
        if self.window is None:
            return tokens
        up, down = _WINDOW_SHARE
        return max(tokens, ceil_div(min(tokens, self.window + self.page) * down, up))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """The fullest pipeline stage's rank: its weights, its pool, its layers."""

    weights_bytes: int
    pool: Pool
    layers: int


def _kv_element_bytes(ask: Ask) -> int:
    chosen = ask.options.kv_dtype
    if chosen == "auto":
        return ask.precision.element_bytes
    if chosen not in _KV_BYTES:
        raise RequestError(
            f"SGLang keeps no cache in {chosen!r} that we model",
            hint=f"choose auto or one of {', '.join(_KV_BYTES)}",
        )
    return _KV_BYTES[chosen]


def _cell_bytes(caches: Iterable[tuple[KvCache, int]], ask: Ask, profile: Profile) -> tuple[int, int | None]:
    """
    Bytes of one slot over these layers, and the window where sliding layers have a pool of their own.

    Each layer: heads on the rank · (d_k + d_v) · b, or the MLA latent, whole on every rank. Sliding layers count 0.8
    in models with a window pool, and full in all others (SGLang keeps every token of Gemma 3 or Mistral).
    Source: DefaultPoolConfigurator._compute_cell_size and HybridSWAPoolConfigurator, pool_configurator.py.
    """
    element = _kv_element_bytes(ask)
    full, sliding, window = 0, 0, None
    pooled = ask.architecture.model_type in profile["window_pool"]
    for cache, count in caches:
        n_bytes = cache.elements_per_token(ask.layout.tp) * element * count
        if pooled and cache.window is not None:
            sliding, window = sliding + n_bytes, max(window or 0, cache.window)
        else:
            full += n_bytes
    if not full:
        return sliding, None  # all slide: no full pool to relate to, and we count every token
    share, whole = _WINDOW_SHARE
    return full + ceil_div(sliding * share, whole), window


def _stage_caches(architecture: Architecture, start: int, count: int) -> list[tuple[KvCache, int]]:
    return [
        (cache, 1)
        for layer in architecture.layers[start : start + count]
        if (cache := layer.mixer.cache) is not None
    ]


def fullest(ask: Ask) -> Rank:
    """The rank of the stage where weights and the asked cache take most."""
    architecture, layout = ask.architecture, ask.layout
    profile = profile_of(ask.options.version)
    page = ask.options.block_size or 1
    if any(layer.mixer.cache is None for layer, _ in architecture.groups):
        raise UnsupportedArchitectureError(
            "layers with a recurrent state are not modelled for SGLang", hint="use --engine llama.cpp"
        )
    replicated = max(cache.ranks_holding_each_head(layout.tp) for cache, _ in architecture.caches)
    weights = rank_weight_bytes(architecture, ask.precision, layout, vocabulary_multiple=64)
    ranks, start = [], 0
    for count, n_bytes in zip(stage_layers(len(architecture.layers), layout.pp), weights, strict=True):
        whole = layout.pp == 1
        caches = architecture.caches if whole else _stage_caches(architecture, start, count)
        cell, window = _cell_bytes(caches, ask, profile)
        pool = Pool(cell_bytes=cell, window=window, page=page, replicated=replicated)
        ranks.append(Rank(weights_bytes=n_bytes, pool=pool, layers=count))
        start += count
    return max(ranks, key=lambda rank: rank.weights_bytes + need_of(rank.pool, ask).n_bytes)


def need_of(pool: Pool, ask: Ask) -> KvNeed:
    """The asked workload in slots of this pool; the slope is taken over a page."""
    context = ask.workload.context
    per_request = pool.slots(context) * pool.cell_bytes
    more = pool.slots(context + pool.page) * pool.cell_bytes - per_request
    return KvNeed(
        bytes_per_token=more // pool.page,
        bytes_per_request=per_request,
        n_bytes=per_request * per_replica(ask),
        replicated_ranks=pool.replicated,
    )
