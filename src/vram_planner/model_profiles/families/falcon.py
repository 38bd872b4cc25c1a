"""Falcon 7B, 40B and 180B: multi-query or grouped-query, attention and MLP side by side."""

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

_MAX_CONTEXT = 2048


def build(config: Config) -> Architecture:
    """Source: transformers models/falcon/modeling_falcon.py, FalconDecoderLayer."""
    newer, bias = config.flag("new_decoder_architecture", default=False), config.flag("bias", default=False)
    heads = config.integer("num_attention_heads", "n_head", most=10**5)
    if newer:
        kv_heads = config.integer("num_kv_heads", default=heads, most=10**5)
    else:
        kv_heads = 1 if config.flag("multi_query", default=True) else heads
    own = config.with_defaults({"num_key_value_heads": kv_heads})
    block = attention(own, qkv_bias=bias, out_bias=bias, fused_qkv=True)
    width = config.integer("ffn_hidden_size", default=4 * block.hidden)
    feed = mlp(config, intermediate=width, gated=False, bias=bias)
    around = norms(block.hidden, *_norm_names(config, newer=newer), bias=True)
    layers = stack(block, (None,) * n_layers(config), feed, around)
    final = norms(block.hidden, "ln_f", bias=True)
    return decoder(config, layers, tied=True, final_norm=final, max_context=_MAX_CONTEXT)


def _norm_names(config: Config, *, newer: bool) -> tuple[str, ...]:
    """Two norms, or one for both where the blocks stand side by side."""
    if newer and config.integer("num_ln_in_parallel_attn", default=2) == 2:  # noqa: PLR2004
        return ("ln_attn", "ln_mlp")
    return RMS_NORMS[:1] if newer or config.flag("parallel_attn", default=True) else RMS_NORMS
