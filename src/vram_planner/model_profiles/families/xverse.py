"""XVERSE 7B, 13B and 65B: Llama's layers."""

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
    """Source: xverse-ai's modeling_xverse.py; vLLM read it with its Llama up to 0.22."""
    bias = config.flag("bias", default=False)
    block = attention(config, qkv_bias=bias, out_bias=bias)
    layers = stack(block, (None,) * n_layers(config), mlp(config), norms(block.hidden, *RMS_NORMS))
    return decoder(config, layers)
