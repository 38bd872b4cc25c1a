"""Kolibri 1: four sliding layers to one full, experts with a shared one, norms before and after each block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    experts,
    mlp,
    n_layers,
    norms,
    stack,
    unless_null,
    windows,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 128_000,
    "hidden_size": 2560,
    "num_hidden_layers": 50,
    "num_attention_heads": 48,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "max_position_embeddings": 262_144,
}
_HEAD_DIM = 128
_EXPERTS, _TOP_K = 384, 6
_WINDOW, _EVERY = 513, 5
_NORMS = (*RMS_NORMS, "post_self_attn_layernorm", "post_mlp_layernorm")


def build(config: Config) -> Architecture:
    """Source: transformers models/kolibri1/modeling_kolibri1.py."""
    config = config.with_defaults(_DEFAULTS)
    if config.raw("num_experts", "num_local_experts") is None:
        config = config.with_defaults({"num_experts": _EXPERTS})
    width = attention(config, head_dim=_HEAD_DIM).head_dim
    block = attention(config, head_dim=_HEAD_DIM, qk_norm=(width, width))
    shared = mlp(
        config, intermediate=config.integer("shared_expert_intermediate_size"), prefix="shared_experts."
    )
    feed = experts(
        config,
        count=("num_experts", "num_local_experts"),
        width=("moe_intermediate_size",),
        top_k=_TOP_K,
        shared=shared,
        correction_bias=True,
    )
    window = config.optional_integer("sliding_window") or unless_null(config, "sliding_window", _WINDOW)
    widths = windows(config, n_layers(config), window=window, every=_EVERY)
    return decoder(config, stack(block, widths, feed, norms(block.hidden, *_NORMS)))
