"""Phi-3-small: biases everywhere, norms with a shift, block-sparse attention whose cache keeps everything."""

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


def build(config: Config) -> Architecture:
    """
    Source: microsoft/Phi-3-small-8k-instruct modeling_phi3_small.py.

    Block-sparse layers read some blocks of the context, by a pattern that moves with the head: none is dropped.
    """
    block = attention(config, qkv_bias=True, out_bias=True, fused_qkv=True)
    width = config.integer("ff_intermediate_size", "intermediate_size")
    feed = mlp(config, intermediate=width, fused=True, bias=True)
    around = norms(block.hidden, *RMS_NORMS, bias=True)
    layers = stack(block, (None,) * n_layers(config), feed, around)
    final = norms(block.hidden, "final_layernorm", bias=True)
    return decoder(config, layers, tied=True, final_norm=final)
