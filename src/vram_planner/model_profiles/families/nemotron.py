"""Nemotron and Minitron: two-matrix MLP with squared ReLU, layer norms with a shift."""

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
    "vocab_size": 256_000,
    "hidden_size": 6144,
    "intermediate_size": 24_576,
    "num_hidden_layers": 32,
    "num_attention_heads": 48,
    "max_position_embeddings": 4096,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/nemotron/modeling_nemotron.py."""
    config = config.with_defaults(_DEFAULTS)
    bias = config.flag("attention_bias", default=False)
    block = attention(config, qkv_bias=bias, out_bias=bias)
    feed = mlp(config, gated=False, bias=config.flag("mlp_bias", default=False))
    layers = stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *RMS_NORMS, bias=True))
    return decoder(config, layers, final_norm=norms(block.hidden, "norm", bias=True))
