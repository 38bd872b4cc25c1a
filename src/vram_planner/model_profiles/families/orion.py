"""Orion 14B: Llama with norms that have a shift."""

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
    """Source: OrionStarAI/Orion modeling_orion.py; read as in vLLM model_executor/models/orion.py."""
    block = attention(config)
    around = norms(block.hidden, *RMS_NORMS, bias=True)
    layers = stack(block, (None,) * n_layers(config), mlp(config), around)
    return decoder(config, layers, final_norm=norms(block.hidden, "norm", bias=True))
