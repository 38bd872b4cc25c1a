"""Command R and R+, Aya: attention and MLP side by side under one norm without shift, a tied head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers, norms, stack

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_MAX_CONTEXT = 8192


def build(config: Config) -> Architecture:
    """Source: transformers models/cohere/modeling_cohere.py; norms on q and k have one scale a head and dimension."""
    bias = config.flag("attention_bias", default=False)
    bare = attention(config)
    widths = None
    if config.flag("use_qk_norm", default=False):
        widths = (bare.n_heads * bare.head_dim, bare.n_kv_heads * bare.head_dim)
    block = attention(config, qkv_bias=bias, out_bias=bias, qk_norm=widths)
    layers = stack(block, (None,) * n_layers(config), mlp(config), norms(block.hidden, "input_layernorm"))
    return decoder(config, layers, tied=True, max_context=_MAX_CONTEXT)
