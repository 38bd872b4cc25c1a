"""Doge: attention with a mask learned from the values, scaled residuals, experts of one neuron where asked for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, Weight, linear
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    experts,
    mlp,
    n_layers,
    norms,
    stack,
)

if TYPE_CHECKING:
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# DogeConfig's own defaults.
_DEFAULTS = {
    "vocab_size": 32_768,
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_hidden_layers": 32,
    "num_attention_heads": 8,
    "max_position_embeddings": 2048,
    "num_experts": 16_384,
    "num_experts_per_tok": 64,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/doge/modeling_doge.py, DogeAttention and DogeCDMoE."""
    config = config.with_defaults(_DEFAULTS)
    bias, bare = config.flag("attention_bias", default=False), attention(config)
    keys, width = bare.n_kv_heads, bare.head_dim
    extras = (
        Weight(name="A", shape=(keys,), role=Role.BIAS, units=keys),
        *linear("dt_proj", keys, keys * width, bias=bias),
    )
    block = attention(config, qkv_bias=bias, out_bias=bias, qk_norm=(width, width), extras=extras)
    window = config.optional_integer("sliding_window")
    small = norms(block.hidden, *RMS_NORMS, "input_residual", "post_attention_residual")
    return decoder(config, stack(block, (window,) * n_layers(config), _feed(config), small))


def _feed(config: Config) -> FeedForward:
    """
    A gated block; beside it, in Doge-MoE, `num_experts` pairs of vectors that two small sets of keys choose.

    The router scores floor(√num_experts) keys of each set.
    """
    dense = mlp(config, bias=config.flag("mlp_bias", default=False))
    if not config.flag("is_moe", default=False):
        return dense
    keys = 2 * math.isqrt(config.integer("num_experts", most=10**6))
    router = linear("router_gate", keys, dense.hidden, role=Role.ROUTER)
    one = config.replaced({"neurons": 1})
    return experts(
        one, count=("num_experts",), width=("neurons",), gated=False, shared=dense, own_router=router
    )
