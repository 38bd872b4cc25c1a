"""SGLang's pools of attention that reads a choice of tokens: an indexer's keys beside a cache, DeepSeek-V4's entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.engines.sglang_cells import Cells, element_bytes
from vram_planner.errors import RequestError, UnsupportedArchitectureError
from vram_planner.units import round_up

if TYPE_CHECKING:
    from vram_planner.architecture.cache import KvCache
    from vram_planner.architecture.model import Layer
    from vram_planner.engines.base import Ask
    from vram_planner.engines.sglang_defaults import Profile

_BLOCK_SPARSE_PAGE = 128
_BLACKWELL, _BLACKWELL_CONSUMER = 10, 12
_SCALED_VALUES, _SCALE_BYTES = 128, 4  # FP8 values that share one float32 scale
_ROTARY = 64
_V4_PAGE, _V4_WIDTH = 256, 512
_V4_ROW, _V4_ALIGN = 584, 576  # 448 FP8 values, 64 rotary ones in bfloat16, 8 bytes of scales
_V4_ROW_BLACKWELL, _V4_ALIGN_BLACKWELL = 528, 512  # 512 FP8 values and 16 bytes of scales
_V4_SHARE = (1, 10)
_V4_REQUESTS = 256
_NEAR, _FAR = 4, 128
_NEAR_RING, _FAR_RING = 8, 128
_STATE_BYTES = 4


def _major(ask: Ask) -> int:
    capability = ask.device.compute_capability if ask.device is not None else None
    return 0 if capability is None else capability[0]


def chooses_by_card(ask: Ask) -> int | None:
    """What of the card decides the layout beside its size: the major compute capability, with sparse attention."""
    return _major(ask) if ask.architecture.indexers else None


def _key_bytes(width: int) -> int:
    """One FP8 key of an indexer and its scales: 128 + 4."""
    return width + width // _SCALED_VALUES * _SCALE_BYTES


def sparse_cells(layers: list[tuple[Layer, int]], ask: Ask, profile: Profile) -> Cells:
    """
    Attention with an indexer: the cache and the indexer's keys beside it.

        latent (DeepSeek-V3.2, GLM-5)   (512 + 64) · 2 B; in FP8 512 + 4 · 4 + 64 · 2 = 656 B, or 576 B on Blackwell
                                        (no scales); indexer 128 + 4 B of each layer that has one; pages of 64
        by blocks (MiniMax-M3)          heads/tp · (d_k + d_v) · b, indexer d_k in the model's dtype; pages of 128

    The default is FP8 on compute capability 10 and up, else bfloat16. Up to 0.5.18 every layer keeps indexer keys.
    Up to 0.5.16 an FP8 row is counted as 576 B where 656 B are allocated, so the pool outgrows its budget.
    Source: calculate_mla_kv_cache_dim and _should_elide_dsa_index_k, mem_cache/kv_cache_configurator.py;
    DefaultPoolConfigurator._compute_dsa_indexer_cell_size; _dsa_kv_cache_dtype_default, arg_groups/overrides.py.
    Raises UnsupportedArchitectureError for releases that run no such model.
    """
    rule = profile["sparse"]
    if rule is None:
        raise UnsupportedArchitectureError(
            f"SGLang {profile['title']} runs no models with an indexer",
            hint="leave --engine-version out for the newest release",
        )
    total, counted, page = 0, 0, int(rule["page"])
    for layer, count in layers:
        cache, chooser = layer.mixer.cache, layer.mixer.indexer
        if cache is None:
            continue
        if cache.latent:
            width = chooser.key_dim if chooser else ask.architecture.indexers[0][0].key_dim
            keys = _key_bytes(width) if chooser or rule["indexers"] == "all" else 0
            row = _latent_row(cache, ask, profile)
            total += (row + keys) * count
            scaled = rule["counts_raw"] and row < 2 * cache.elements_per_token()
            counted += ((cache.elements_per_token() if scaled else row) + keys) * count
        else:
            page = _BLOCK_SPARSE_PAGE
            keys = chooser.elements_per_token() * ask.precision.element_bytes if chooser else 0
            cells = (cache.elements_per_token(ask.layout.attention_tp) * element_bytes(ask) + keys) * count
            total, counted = total + cells, counted + cells
    return Cells(
        unit_bytes=total,
        page=ask.options.block_size or page,
        counted_bytes=None if counted == total else counted,
    )


def _latent_row(cache: KvCache, ask: Ask, profile: Profile) -> int:
    """One token's latent in the type that this release chooses on this card, or that was asked for."""
    width, chosen, major = cache.elements_per_token(), ask.options.kv_dtype, _major(ask)
    if chosen not in {"auto", "bfloat16", "fp8", "fp8_e4m3"}:
        raise RequestError(
            f"SGLang keeps no sparse attention's cache in {chosen!r}", hint="choose auto, bfloat16 or fp8"
        )
    if chosen == "bfloat16" or (chosen == "auto" and major < profile["sparse"]["fp8_from"]):
        return 2 * width
    glm = ask.architecture.model_type == "glm_moe_dsa" and major == _BLACKWELL_CONSUMER
    if profile["sparse"]["raw_fp8"] and major >= _BLACKWELL and not glm:
        return width
    latent = width - _ROTARY
    return _key_bytes(latent) + 2 * _ROTARY


def compressed_cells(layers: list[tuple[Layer, int]], ask: Ask, profile: Profile) -> Cells:
    """
    DeepSeek-V4: a window's pool of a tenth of the tokens, and compressed entries of every 4 or 128 of them.

        L layers, L4 and L128 of those with such entries    R(n) = page of n rows of 584 B, padded to 576
        window, each of T/10 slots                          L · R(256)/256 + L4 · 8/256 · (4 · 512 + 4 · 128) · 4
        entries, each of T tokens                           L4 · (R(64)/64 + 132)/4 + L128 · R(2)/2/128
        fixed                                               L128 · ⌈(requests + 2) · 128 + 1⌉₁₂₈ · 2 · 512 · 4

    `requests` is 256 where it is not set. On compute capability 10 rows have 528 B, padded to 512. Up to 0.5.22 pages are
    not padded and 128 tokens of the window share the 8 rows.
    Source: DSV4PoolConfigurator, model_executor/pool_configurator.py; KVLayout; arg_groups/model_overrides/deepseek_v4.py.
    Raises UnsupportedArchitectureError for earlier releases, whose pools differ, and for other widths.
    """
    rule = profile["compressed"]
    if rule is None or any(cache.key_dim != _V4_WIDTH for cache, _ in ask.architecture.caches):
        raise UnsupportedArchitectureError(
            f"the pools of {ask.architecture.model_type} are not known for SGLang {profile['title']}",
            hint="leave --engine-version out for the newest release, or try --engine vllm",
        )
    strides = [(layer.mixer.cache, layer.mixer.indexer, count) for layer, count in layers]
    near, far, keys = 0, 0, 0
    for cache, chooser, count in strides:
        stride = cache.compressed.stride if cache is not None and cache.compressed is not None else 0
        near, far = near + count * (stride == _NEAR), far + count * (stride == _FAR)
        keys = max(keys, chooser.key_dim if chooser is not None else 0)
    n_layers, up_to = sum(count for _, _, count in strides), _V4_SHARE[1]
    rings = _V4_PAGE // rule["ring_page"]
    waiting = rings * _NEAR_RING * 4 * (_V4_WIDTH + keys) * _STATE_BYTES
    pages = [_page_bytes(ask, _V4_PAGE // stride, padded=rule["padded"]) for stride in (1, _NEAR, _FAR)]
    window = n_layers * pages[0] + near * waiting
    entries = near * (pages[1] + _V4_PAGE // _NEAR * _key_bytes(keys)) + far * pages[2]
    rows = round_up(((ask.options.max_num_seqs or _V4_REQUESTS) + 2) * _FAR_RING + 1, _FAR)
    return Cells(
        unit_bytes=window + up_to * entries,
        unit=up_to * _V4_PAGE,
        page=_V4_PAGE,
        window=max(cache.window or 0 for cache, _ in ask.architecture.caches),
        share=_V4_SHARE,
        fixed_bytes=far * rows * 2 * _V4_WIDTH * _STATE_BYTES,
    )


def _page_bytes(ask: Ask, rows: int, *, padded: bool) -> int:
    row, align = _V4_ROW, _V4_ALIGN
    if not padded:
        return rows * row
    if _major(ask) == _BLACKWELL:
        row, align = _V4_ROW_BLACKWELL, _V4_ALIGN_BLACKWELL
    return round_up(rows * row, align)
