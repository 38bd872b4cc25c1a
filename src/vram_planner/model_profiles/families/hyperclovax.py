"""HyperCLOVA X: Llama with a norm after each block too."""

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
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/hyperclovax/modeling_hyperclovax.py; `use_post_norm` adds two norms a layer."""
    config = config.with_defaults(_DEFAULTS)
    bias = config.flag("attention_bias", default=False)
    block = attention(config, qkv_bias=bias, out_bias=bias)
    feed = mlp(config, bias=config.flag("mlp_bias", default=False))
    after = ("post_norm1", "post_norm2") if config.flag("use_post_norm", default=True) else ()
    layers = stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *RMS_NORMS, *after))
    return decoder(config, layers)
