"""Gemma 2: every other layer slides; four norms a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import (
    SANDWICH_NORMS,
    attention,
    decoder,
    mlp,
    n_layers,
    norms,
    stack,
    windows,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_HEAD_DIM = 256
_WINDOW = 4096
_EVERY = 2
_MAX_CONTEXT = 8192


def build(config: Config) -> Architecture:
    """Source: transformers models/gemma2: the first layer slides, the second is full, and so on."""
    bias = config.flag("attention_bias", default=False)
    block = attention(config, head_dim=_HEAD_DIM, qkv_bias=bias, out_bias=bias)
    window = config.integer("sliding_window", default=_WINDOW)
    widths = windows(config, n_layers(config), window=window, every=_EVERY)
    layers = stack(block, widths, mlp(config), norms(block.hidden, *SANDWICH_NORMS))
    return decoder(config, layers, tied=True, max_context=_MAX_CONTEXT, capped_logits=True)
