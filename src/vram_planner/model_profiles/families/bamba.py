"""Bamba: Mamba-2 with a few layers of attention, dense throughout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.model_profiles.families.common import (
    attention,
    decoder,
    hidden_size,
    mlp,
    n_layers,
    norms,
)
from vram_planner.model_profiles.families.hybrid import Parts, assemble, mamba_2

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# Shared with Falcon-H1.
BAMBA_DEFAULTS: Final = {
    "vocab_size": 128_000,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "attention_bias": False,
    "mlp_bias": False,
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
}
NORMS: Final = ("input_layernorm", "pre_ff_layernorm")


def build(config: Config) -> Architecture:
    """Source: transformers models/bamba/modeling_bamba.py."""
    config = with_heads(config.with_defaults({**BAMBA_DEFAULTS, "max_position_embeddings": 262_144}))
    attending = frozenset(config.integers("attn_layer_indices", default=()))
    bias = config.flag("attention_bias")
    full = attention(config, qkv_bias=bias, out_bias=bias)
    mamba, feed = mamba_2(config), mlp(config, bias=config.flag("mlp_bias"))
    around = norms(hidden_size(config), *NORMS)
    rows = (Parts(full if i in attending else mamba, feed, around) for i in range(n_layers(config)))
    return decoder(config, assemble(rows))


def with_heads(config: Config) -> Config:
    """8 KV heads where the config is silent, as many as query heads where it says null."""
    said = config.has("num_key_value_heads")
    return config.with_defaults({"num_key_value_heads": config.raw("num_attention_heads") if said else 8})
