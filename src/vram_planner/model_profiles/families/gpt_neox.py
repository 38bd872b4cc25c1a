"""GPT-NeoX 20B and Pythia: one matrix for q, k and v, biases everywhere."""

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


def build(config: Config) -> Architecture:
    """Source: transformers models/gpt_neox/modeling_gpt_neox.py."""
    bias = config.flag("attention_bias", default=True)
    block = attention(config, qkv_bias=bias, out_bias=bias, fused_qkv=True)
    around = norms(block.hidden, *RMS_NORMS, bias=True)
    layers = stack(block, (None,) * n_layers(config), mlp(config, gated=False, bias=True), around)
    return decoder(config, layers, final_norm=norms(block.hidden, "norm", bias=True))
