"""Mixtral 8x7B and 8x22B."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    experts,
    n_layers,
    norms,
    stack,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_KV_HEADS = 8


def build(config: Config) -> Architecture:
    """Source: transformers models/mixtral/modeling_mixtral.py."""
    block = attention(config, kv_heads=_KV_HEADS)
    feed = experts(config, count=("num_local_experts", "num_experts"), width=("intermediate_size",), top_k=2)
    widths = (config.optional_integer("sliding_window"),) * n_layers(config)
    return decoder(config, stack(block, widths, feed, norms(block.hidden, *RMS_NORMS)))
