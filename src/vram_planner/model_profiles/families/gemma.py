"""Gemma 1 (2B and 7B): wide heads, a tied head."""

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

_HEAD_DIM = 256
_MAX_CONTEXT = 8192


def build(config: Config) -> Architecture:
    """Source: transformers models/gemma/modeling_gemma.py."""
    bias = config.flag("attention_bias", default=False)
    block = attention(config, head_dim=_HEAD_DIM, qkv_bias=bias, out_bias=bias)
    layers = stack(block, (None,) * n_layers(config), mlp(config), norms(block.hidden, *RMS_NORMS))
    return decoder(config, layers, tied=True, max_context=_MAX_CONTEXT)
