"""What a token costs in SGLang's pools, by the kinds of layers that a stage holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vram_planner.architecture.attention import BorrowedKv
from vram_planner.errors import RequestError
from vram_planner.units import ceil_div, round_up

if TYPE_CHECKING:
    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.cache import KvCache
    from vram_planner.architecture.model import Layer
    from vram_planner.engines.base import Ask
    from vram_planner.engines.sglang_defaults import Profile

_KV_BYTES = {"bfloat16": 2, "fp8": 1, "fp8_e5m2": 1, "fp8_e4m3": 1}
# A window's layers get 0.8 tokens for each token of the full layers (--swa-full-tokens-ratio), as a fraction.
_WINDOW_SHARE = (4, 5)
_DATACENTRE_BLACKWELL = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """
    Tokens of one rank: `unit_bytes` for each `unit` of them, whole numbers where a pool is a fraction of another.

    `share` of the tokens, as (up, down), is what sliding layers of `window` get; None where they get all. `extra` slots a
    request takes beside its context (the image of cross-attention), `fixed_bytes` whatever it runs. `counted_bytes` is what
    the release counts for a unit as it sizes the pool, where that is not what it then allocates; `draft_bytes` is what of a
    unit is a draft model's; `split` says whether keys and values are logged apart.
    """

    unit_bytes: int
    unit: int = 1
    page: int = 1
    window: int | None = None
    share: tuple[int, int] = _WINDOW_SHARE
    extra: int = 0
    fixed_bytes: int = 0
    counted_bytes: int | None = None
    draft_bytes: int = 0
    split: bool = False

    @property
    def cell_bytes(self) -> int:
        """Bytes of one token over all layers, rounded up."""
        return ceil_div(self.unit_bytes, self.unit)

    def slots(self, context: int) -> int:
        """Slots that one request of `context` tokens needs."""
        tokens = round_up(context + self.extra, self.page)
        if self.window is None:
            return tokens
        up, down = self.share
        return max(tokens, ceil_div(min(tokens, self.window + self.page) * down, up))

    def n_bytes(self, slots: int) -> int:
        """What that many slots take."""
        return ceil_div(slots * self.unit_bytes, self.unit)

    def held(self, n_bytes: int) -> int:
        """Slots that fit by what is counted, whole pages of them."""
        return max(0, n_bytes) * self.unit // (self.counted_bytes or self.unit_bytes) // self.page * self.page

    def beyond(self, slots: int) -> int:
        """Bytes that slots take and the sizing does not count: outside the budget. Negative where it counts more."""
        if self.counted_bytes is None:
            return 0
        return ceil_div(slots * (self.unit_bytes - self.counted_bytes), self.unit)


def element_bytes(ask: Ask) -> int:
    """Bytes of one cached number, as asked or as the model has it; RequestError for a type that is not modelled."""
    chosen = ask.options.kv_dtype
    if chosen == "auto":
        return ask.precision.element_bytes
    if chosen not in _KV_BYTES:
        raise RequestError(
            f"SGLang keeps no cache in {chosen!r} that we model",
            hint=f"choose auto or one of {', '.join(_KV_BYTES)}",
        )
    return _KV_BYTES[chosen]


def default_page(ask: Ask, profile: Profile) -> int:
    """
    Tokens of a page: 1, but 64 on compute capability 10, whose default attention is TensorRT-LLM's.

    Its MHA kernels serve plain attention since 0.5.8, its MLA kernels DeepSeek-V3's; others' MLA runs on FlashInfer, models
    with states on Triton, and keys and values of different widths on FA4 with pages of 128 (not modelled: 64 here).
    Source: get_default_attn_backend, arg_groups/model_override_base.py; _mla_backend_page_constraints,
    arg_groups/overrides.py; model_overrides/deepseek_v2.py.
    """
    architecture, device = ask.architecture, ask.device
    if (
        device is None
        or device.compute_capability is None
        or device.compute_capability[0] != _DATACENTRE_BLACKWELL
    ):
        return 1
    latent = any(cache.latent for cache, _ in architecture.caches)
    other = (latent and architecture.model_type != "deepseek_v3") or bool(architecture.states)
    return 1 if other else profile["blackwell_page"] or 1


def cache_of(mixer: Mixer) -> KvCache | None:
    """
    What SGLang keeps for a layer; a layer that borrows another's keys and values has rows of its own all the same.

    Source: ModelConfig.get_hybrid_layer_ids and num_effective_layers, which count every layer.
    """
    if isinstance(mixer, BorrowedKv):
        return replace(mixer.inner.cache, window=mixer.window)
    return mixer.cache


def plain_cells(layers: list[tuple[Layer, int]], ask: Ask, profile: Profile) -> Cells:
    """
    Each layer: heads on the rank · (d_k + d_v) · b, or the MLA latent, whole on every rank.

    Sliding and chunked layers count 0.8 in models with a window pool, and full in all others (SGLang keeps every token
    of Gemma 3 or Mistral). Cross-attention's image takes slots of the one pool, in every layer.
    Source: DefaultPoolConfigurator._compute_cell_size and HybridSWAPoolConfigurator, pool_configurator.py.
    """
    element, page = element_bytes(ask), ask.options.block_size or default_page(ask, profile)
    full, sliding, window, extra = 0, 0, None, 0
    pooled = ask.architecture.model_type in profile["window_pool"]
    for layer, count in layers:
        cache = cache_of(layer.mixer)
        if cache is None:
            continue
        n_bytes = cache.elements_per_token(ask.layout.attention_tp) * element * count
        extra = max(extra, cache.fixed_tokens or 0)
        if pooled and cache.window is not None:
            sliding, window = sliding + n_bytes, max(window or 0, cache.window)
        else:
            full += n_bytes
    split = not any(cache.latent for cache, _ in ask.architecture.caches)
    if not full:  # all slide: no full pool to relate to, and every token is counted
        return Cells(unit_bytes=sliding, page=page, extra=extra, split=split)
    share, whole = _WINDOW_SHARE if sliding else (1, 1)
    return Cells(
        unit_bytes=full * whole + sliding * share,
        unit=whole,
        page=page,
        window=window,
        extra=extra,
        split=split,
    )
