"""gpt-oss 20B and 120B: sinks, biases everywhere, every other layer slides, experts stored in MXFP4."""

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
    windows,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_HEAD_DIM = 64
_KV_HEADS = 8
_WINDOW = 128
_EVERY = 2
_MAX_CONTEXT = 131_072


def build(config: Config) -> Architecture:
    """Source: transformers models/gpt_oss/modeling_gpt_oss.py."""
    bias = config.flag("attention_bias", default=True)
    block = attention(
        config, head_dim=_HEAD_DIM, kv_heads=_KV_HEADS, qkv_bias=bias, out_bias=bias, sinks=True
    )
    feed = experts(
        config,
        count=("num_local_experts", "num_experts"),
        width=("intermediate_size",),
        top_k=4,
        router_bias=True,
        bias=True,
    )
    window = config.integer("sliding_window", default=_WINDOW)
    widths = windows(config, n_layers(config), window=window, every=_EVERY)
    layers = stack(block, widths, feed, norms(block.hidden, *RMS_NORMS))
    return decoder(config, layers, max_context=_MAX_CONTEXT)
