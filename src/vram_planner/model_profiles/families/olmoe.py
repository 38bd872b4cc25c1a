"""OLMoE 1B-7B: 64 small experts, norms over all heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import RMS_NORMS, decoder, experts, n_layers, norms, stack
from vram_planner.model_profiles.families.olmo2 import olmo_attention

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """Source: transformers models/olmoe/modeling_olmoe.py."""
    block = olmo_attention(config)
    feed = experts(config, count=("num_experts",), width=("intermediate_size",), top_k=8)
    return decoder(config, stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *RMS_NORMS)))
