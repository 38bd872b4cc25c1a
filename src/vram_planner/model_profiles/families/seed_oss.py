"""Seed-OSS 36B: biases on q, k and v, heads of their own width."""

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
_KV_HEADS = 8


def build(config: Config) -> Architecture:
    """Source: transformers models/seed_oss/modeling_seed_oss.py."""
    block = attention(
        config,
        head_dim=_HEAD_DIM,
        kv_heads=_KV_HEADS,
        qkv_bias=config.flag("attention_bias", default=True),
        out_bias=config.flag("attention_out_bias", default=False),
    )
    feed = mlp(config, bias=config.flag("mlp_bias", default=False))
    return decoder(config, stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *RMS_NORMS)))
