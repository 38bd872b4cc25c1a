"""Granite 4.0 H: Mamba-2 with a few layers of attention, experts beside a shared block, or that block alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    experts,
    hidden_size,
    mlp,
    n_layers,
    norms,
)
from vram_planner.model_profiles.families.hybrid import FULL, LINEAR, Parts, assemble, kinds, mamba_2

if TYPE_CHECKING:
    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS: Final = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "shared_intermediate_size": 1024,
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/granitemoehybrid/modeling_granitemoehybrid.py."""
    config = config.with_defaults(_DEFAULTS)
    count = n_layers(config)
    found = kinds(config, count, (LINEAR, FULL), (LINEAR,) * count)
    bias = config.flag("attention_bias", default=False)
    made: dict[str, Mixer] = {}
    if LINEAR in found:
        made[LINEAR] = mamba_2(config)
    if FULL in found:
        made[FULL] = attention(config, qkv_bias=bias, out_bias=bias)
    feed, around = _feed_forward(config), norms(hidden_size(config), *RMS_NORMS)
    return decoder(config, assemble(Parts(made[kind], feed, around) for kind in found))


def _feed_forward(config: Config) -> FeedForward:
    """The shared block alone where there are no experts (Granite 4.0 H Micro)."""
    shared = mlp(
        config, intermediate=config.integer("shared_intermediate_size"), prefix="shared_mlp.", fused=True
    )
    if not config.integer("num_local_experts", least=0):
        return shared
    return experts(config, count=("num_local_experts",), width=("intermediate_size",), shared=shared)
