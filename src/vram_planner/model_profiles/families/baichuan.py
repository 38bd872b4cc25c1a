"""Baichuan and Baichuan 2: 7B turns its positions, 13B slopes them; one matrix for q, k and v."""

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
    """Source: baichuan-inc/Baichuan2 modeling_baichuan.py; read as in vLLM 0.22 model_executor/models/baichuan.py (0.23 dropped it)."""
    block = attention(config, fused_qkv=True)
    layers = stack(block, (None,) * n_layers(config), mlp(config), norms(block.hidden, *RMS_NORMS))
    return decoder(config, layers, max_context=config.optional_integer("model_max_length"))
