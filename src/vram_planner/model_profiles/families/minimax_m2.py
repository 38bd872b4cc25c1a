"""MiniMax-M2, M2.1, M2.5, M2.7: many small experts, norms over all heads."""

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

_HEAD_DIM = 128
_KV_HEADS = 8


def build(config: Config) -> Architecture:
    """Source: transformers models/minimax_m2/modeling_minimax_m2.py. The published checkpoints hold no MTP layers."""
    bare = attention(config, head_dim=_HEAD_DIM, kv_heads=_KV_HEADS)
    widths = (bare.n_heads * bare.head_dim, bare.n_kv_heads * bare.head_dim)
    block = attention(config, head_dim=_HEAD_DIM, kv_heads=_KV_HEADS, qk_norm=widths)
    feed = experts(
        config, count=("num_local_experts",), width=("intermediate_size",), top_k=8, correction_bias=True
    )
    return decoder(config, stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *RMS_NORMS)))
