"""SmolLM 3: Llama with a tied head; some layers go without positions, which costs nothing."""

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
    windows,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_KV_HEADS = 4
_EVERY = 4


def build(config: Config) -> Architecture:
    """Source: transformers models/smollm3/modeling_smollm3.py; windows only with `use_sliding_window`."""
    bias = config.flag("attention_bias", default=False)
    block = attention(config, kv_heads=_KV_HEADS, qkv_bias=bias, out_bias=bias)
    window = None
    if config.flag("use_sliding_window", default=False):
        window = config.optional_integer("sliding_window")
    every = config.integer("no_rope_layer_interval", default=_EVERY)
    widths = windows(config, n_layers(config), window=window, every=every)
    feed = mlp(config, bias=config.flag("mlp_bias", default=False))
    return decoder(config, stack(block, widths, feed, norms(block.hidden, *RMS_NORMS)), tied=True)
