"""Phi-3, Phi-3.5 mini, Phi-4 and Phi-4-mini: one matrix for q, k and v, one for gate and up."""

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
    """
    Source: transformers models/phi3/modeling_phi3.py.

    A window that is not below the longest context (Phi-4-mini: 262,144 of 131,072) never cuts anything;
    it is kept as published, for engines that look at the number.
    """
    block = attention(config, fused_qkv=True)
    window = config.optional_integer("sliding_window")
    layers = stack(
        block, (window,) * n_layers(config), mlp(config, fused=True), norms(block.hidden, *RMS_NORMS)
    )
    return decoder(config, layers)
