"""MiMo-V2-Flash: five sliding layers to one full; the sliding ones have sinks and twice the KV heads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.cross import UnevenAttention
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    experts,
    hidden_size,
    mlp,
    n_layers,
    norms,
)
from vram_planner.model_profiles.families.patterns import (
    DENSE,
    FULL,
    SLIDING,
    SPARSE,
    build_layers,
    layer_kinds,
)

if TYPE_CHECKING:
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 152_576,
    "hidden_size": 4096,
    "intermediate_size": 16_384,
    "num_hidden_layers": 48,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "head_dim": 192,
    "v_head_dim": 128,
    "moe_intermediate_size": 2048,
    "max_position_embeddings": 131_072,
}
_WINDOW = 129
_EXPERTS = 256
_EVERY = 6


def build(config: Config) -> Architecture:
    """Source: transformers models/mimo_v2_flash/modeling_mimo_v2_flash.py; patterns of MiMoV2FlashConfig."""
    config = config.with_defaults(_DEFAULTS)
    count = n_layers(config)
    usual = [FULL if index == 0 or (index + 1) % _EVERY == 0 else SLIDING for index in range(count)]
    kinds = layer_kinds(config, "layer_types", count, (FULL, SLIDING), usual)
    mixers = {kind: _attention(config, sliding=kind == SLIDING) for kind in set(kinds)}
    usual = [DENSE, *[SPARSE] * (count - 1)]
    blocks = layer_kinds(config, "mlp_layer_types", count, (DENSE, SPARSE), usual)
    feeds = {kind: _experts(config) if kind == SPARSE else mlp(config) for kind in set(blocks)}
    around = norms(hidden_size(config), *RMS_NORMS)
    layers = build_layers([mixers[kind] for kind in kinds], [feeds[kind] for kind in blocks], around)
    return decoder(config, layers)


def _experts(config: Config) -> FeedForward:
    if config.raw("n_routed_experts", "num_local_experts") is None:
        config = config.with_defaults({"n_routed_experts": _EXPERTS})
    return experts(
        config,
        count=("n_routed_experts", "num_local_experts"),
        width=("moe_intermediate_size",),
        top_k=8,
        correction_bias=True,
    )


def _attention(config: Config, *, sliding: bool) -> UnevenAttention:
    """The checkpoint's `sliding_window_size` counts the tokens before the query: the window is one more."""
    inner = attention(config, qkv_bias=config.flag("attention_bias", default=False), sinks=sliding)
    window = None
    if sliding:
        inner = replace(inner, n_kv_heads=2 * inner.n_kv_heads)
        window = config.integer("sliding_window", default=_WINDOW)
        if config.raw("sliding_window_size") is not None:
            window = config.integer("sliding_window_size") + 1
    return UnevenAttention(inner=inner, value_dim=config.integer("v_head_dim", most=10**5), window=window)
