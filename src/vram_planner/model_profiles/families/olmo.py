"""OLMo 1: norms without any parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers, stack

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """Source: transformers models/olmo/modeling_olmo.py, OlmoLayerNorm."""
    bias = config.flag("attention_bias", default=False)
    block = attention(config, qkv_bias=bias, out_bias=bias)
    return decoder(config, stack(block, (None,) * n_layers(config), mlp(config), ()), final_norm=())
