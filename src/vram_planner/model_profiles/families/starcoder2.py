"""StarCoder 2: two-matrix MLP, biases, layer norms with a shift, a tied head."""

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
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_KV_HEADS = 2


def build(config: Config) -> Architecture:
    """Source: transformers models/starcoder2/modeling_starcoder2.py."""
    bias = config.flag("use_bias", default=True)
    block = attention(config, kv_heads=_KV_HEADS, qkv_bias=bias, out_bias=bias)
    widths = (config.optional_integer("sliding_window"),) * n_layers(config)
    feed = mlp(config, gated=False, bias=bias)
    layers = stack(block, widths, feed, norms(block.hidden, *RMS_NORMS, bias=True))
    return decoder(config, layers, tied=True, final_norm=norms(block.hidden, "norm", bias=True))
