"""GLM-4 9B in the format of transformers."""

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


def build(config: Config) -> Architecture:
    """Source: transformers models/glm/modeling_glm.py."""
    bias = config.flag("attention_bias", default=True)
    block = attention(config, head_dim=_HEAD_DIM, kv_heads=_KV_HEADS, qkv_bias=bias)
    layers = stack(
        block, (None,) * n_layers(config), mlp(config, fused=True), norms(block.hidden, *RMS_NORMS)
    )
    return decoder(config, layers)
