"""Phi-3.5-MoE: layer norms with a shift, sixteen experts, a head with a bias."""

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
    """
    Source: transformers models/phimoe/modeling_phimoe.py.

    The window of Phi-3.5-MoE is its longest context and never cuts anything; it is kept as published.
    """
    bias = config.flag("attention_bias", default=False)
    block = attention(config, kv_heads=_KV_HEADS, qkv_bias=bias, out_bias=bias)
    feed = experts(config, count=("num_local_experts",), width=("intermediate_size",), top_k=2)
    widths = (config.optional_integer("sliding_window"),) * n_layers(config)
    layers = stack(block, widths, feed, norms(block.hidden, *RMS_NORMS, bias=True))
    final = norms(block.hidden, "norm", bias=True)
    return decoder(config, layers, final_norm=final, head_bias=config.flag("lm_head_bias", default=False))
