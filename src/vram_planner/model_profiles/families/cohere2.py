"""Command R7B and Command A: Cohere's layers, three sliding to one full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import (
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

_WINDOW = 4096
_EVERY = 4
_MAX_CONTEXT = 8192


def build(config: Config) -> Architecture:
    """Source: transformers models/cohere2/modeling_cohere2.py."""
    bias = config.flag("attention_bias", default=False)
    block = attention(config, qkv_bias=bias, out_bias=bias)
    widths = windows(
        config,
        n_layers(config),
        window=config.integer("sliding_window", default=_WINDOW),
        every=config.integer("sliding_window_pattern", default=_EVERY),
    )
    layers = stack(block, widths, mlp(config), norms(block.hidden, "input_layernorm"))
    return decoder(config, layers, tied=True, max_context=_MAX_CONTEXT)
