"""Fuyu 8B: Persimmon with image patches put in by one matrix."""

from __future__ import annotations

from dataclasses import replace
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
from vram_planner.model_profiles.families.towers import tower_weights

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_TEXT = {
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "num_attention_heads": 64,
    "intermediate_size": 16_384,
    "vocab_size": 262_144,
    "max_position_embeddings": 16_384,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/fuyu/modeling_fuyu.py and models/persimmon/modeling_persimmon.py."""
    own = config.sub("text_config").with_defaults(_TEXT)
    block = attention(own, qkv_bias=True, out_bias=True, fused_qkv=True)
    around = norms(block.hidden, *RMS_NORMS, bias=True)
    if own.flag("qk_layernorm", default=True):
        around += norms(block.head_dim, "q_layernorm", "k_layernorm", bias=True)
    layers = stack(block, (None,) * n_layers(own), mlp(own, gated=False, bias=True), around)
    side = config.integer("patch_size", default=30, most=10**4)
    pixels = side * side * config.integer("num_channels", default=3, most=10**3)
    whole = decoder(
        own,
        layers,
        final_norm=norms(block.hidden, "final_layernorm", bias=True),
        towers=tower_weights("vision_embed_tokens", (block.hidden, pixels), (block.hidden,)),
    )
    tied = config.flag("tie_word_embeddings", default=False)
    return replace(whole, model_type="fuyu", tied_head=tied)
