"""Ministral 8B: sliding and full layers by `layer_types`, all sliding where the config has none."""

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
    windows,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 131_072,
}
_KV_HEADS = 8
_WINDOW = 4096


def build(config: Config) -> Architecture:
    """Source: transformers models/ministral/modeling_ministral.py; defaults of MinistralConfig."""
    config = config.with_defaults(_DEFAULTS)
    block = attention(config, kv_heads=unless_null(config, "num_key_value_heads", _KV_HEADS))
    window = config.optional_integer("sliding_window") or unless_null(config, "sliding_window", _WINDOW)
    widths = windows(config, n_layers(config), window=window)
    return decoder(config, stack(block, widths, mlp(config), norms(block.hidden, *RMS_NORMS)))
