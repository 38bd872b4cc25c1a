"""GLM-4 0414 (9B, 32B): four norms a layer, gate and up in one matrix, biases on q, k and v."""

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

_HEAD_DIM = 128
_KV_HEADS = 2
_AFTER = ("post_self_attn_layernorm", "post_mlp_layernorm")


def build(config: Config) -> Architecture:
    """Source: transformers models/glm4/modeling_glm4.py."""
    bias = config.flag("attention_bias", default=True)
    block = attention(config, head_dim=_HEAD_DIM, kv_heads=_KV_HEADS, qkv_bias=bias)
    around = norms(block.hidden, *RMS_NORMS, *_AFTER)
    return decoder(config, stack(block, (None,) * n_layers(config), mlp(config, fused=True), around))
