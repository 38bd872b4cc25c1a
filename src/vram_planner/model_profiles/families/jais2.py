"""Jais 2: two-matrix MLP with squared ReLU, biases and layer norms with a shift."""

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

_DEFAULTS = {
    "vocab_size": 150_272,
    "hidden_size": 3328,
    "intermediate_size": 26_624,
    "num_hidden_layers": 32,
    "num_attention_heads": 26,
    "max_position_embeddings": 8192,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/jais2/modeling_jais2.py."""
    config = config.with_defaults(_DEFAULTS)
    bias = config.flag("attention_bias", default=True)
    block = attention(config, qkv_bias=bias, out_bias=bias)
    feed = mlp(config, gated=False, bias=config.flag("mlp_bias", default=True))
    layers = stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *RMS_NORMS, bias=True))
    return decoder(config, layers, final_norm=norms(block.hidden, "norm", bias=True))
