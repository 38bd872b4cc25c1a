"""Granite with three sliding layers to one full, and attention sinks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    mlp,
    n_layers,
    norms,
    stack,
    unless_null,
)
from vram_planner.model_profiles.families.patterns import FULL, SLIDING, layer_kinds

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 100_352,
    "hidden_size": 2560,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 20,
    "max_position_embeddings": 8192,
}
_KV_HEADS = 4
_WINDOW = 128
_EVERY = 4


def build(config: Config) -> Architecture:
    """Source: transformers models/granite_swa/modeling_granite_swa.py."""
    config = config.with_defaults(_DEFAULTS)
    bias = config.flag("attention_bias", default=False)
    block = attention(
        config,
        kv_heads=unless_null(config, "num_key_value_heads", _KV_HEADS),
        qkv_bias=bias,
        out_bias=bias,
        sinks=True,
    )
    feed = mlp(config, bias=config.flag("mlp_bias", default=False))
    layers = stack(block, granite_windows(config), feed, norms(block.hidden, *RMS_NORMS))
    return decoder(config, layers, tied=True)


def granite_windows(config: Config) -> tuple[int | None, ...]:
    """The window of each layer: the first of four is full. Source: GraniteSWAConfig.__post_init__."""
    count = n_layers(config)
    window = config.optional_integer("sliding_window") or unless_null(config, "sliding_window", _WINDOW)
    usual = [FULL if index % _EVERY == 0 else SLIDING for index in range(count)]
    kinds = layer_kinds(config, "layer_types", count, (FULL, SLIDING), usual)
    return tuple(window if kind == SLIDING else None for kind in kinds)
