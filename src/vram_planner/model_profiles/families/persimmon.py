"""Persimmon: fused query, key and value, norms with a shift over each head, two-matrix MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.attention import FullAttention
from vram_planner.architecture.weight import Role, Weight
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    decoder,
    hidden_size,
    mlp,
    n_layers,
    norms,
    stack,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 262_144,
    "hidden_size": 4096,
    "intermediate_size": 16_384,
    "num_hidden_layers": 36,
    "num_attention_heads": 64,
    "max_position_embeddings": 16_384,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/persimmon/modeling_persimmon.py; it reads neither `head_dim` nor KV heads."""
    config = config.with_defaults(_DEFAULTS)
    heads, hidden = config.integer("num_attention_heads", most=10**5), hidden_size(config)
    if hidden % heads:
        raise ConfigError(
            f"{config.where}hidden_size ({hidden}) is no multiple of num_attention_heads ({heads})",
            hint="correct one of the two",
        )
    width = hidden // heads
    normed = config.flag("qk_layernorm", default=True)
    shifts = tuple(
        Weight(name=f"{name}.bias", shape=(width,), role=Role.BIAS) for name in ("q_norm", "k_norm")
    )
    block = FullAttention(
        hidden=hidden,
        n_heads=heads,
        n_kv_heads=heads,
        head_dim=width,
        qkv_bias=True,
        out_bias=True,
        fused_qkv=True,
        qk_norm=(width, width) if normed else None,
        extras=shifts if normed else (),
    )
    feed = mlp(config, gated=False, bias=True)
    layers = stack(block, (None,) * n_layers(config), feed, norms(hidden, *RMS_NORMS, bias=True))
    return decoder(config, layers, final_norm=norms(hidden, "final_layernorm", bias=True))
