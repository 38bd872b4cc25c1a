"""nanochat: norms without a scale, two-matrix MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers, stack

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 50_304,
    "hidden_size": 768,
    "intermediate_size": 8192,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "max_position_embeddings": 2048,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/nanochat/modeling_nanochat.py; logits are always squeezed through a tanh."""
    config = config.with_defaults(_DEFAULTS)
    bias = config.flag("attention_bias", default=False)
    block = attention(config, qkv_bias=bias, out_bias=bias)
    layers = stack(block, (None,) * n_layers(config), mlp(config, gated=False), ())
    return decoder(config, layers, final_norm=(), capped_logits=True)
