"""OLMo 2: norms after the blocks, and norms over all heads of queries and of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers, norms, stack

if TYPE_CHECKING:
    from vram_planner.architecture.attention import FullAttention
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")


def build(config: Config) -> Architecture:
    """Source: transformers models/olmo2/modeling_olmo2.py."""
    block = olmo_attention(config)
    layers = stack(block, (None,) * n_layers(config), mlp(config), norms(block.hidden, *POST_NORMS))
    return decoder(config, layers)


def olmo_attention(config: Config) -> FullAttention:
    """Attention with a norm as wide as all its heads."""
    bias = config.flag("attention_bias", default=False)
    bare = attention(config)
    widths = (bare.n_heads * bare.head_dim, bare.n_kv_heads * bare.head_dim)
    return attention(config, qkv_bias=bias, out_bias=bias, qk_norm=widths)
