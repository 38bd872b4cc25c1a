"""Jamba: seven layers of Mamba to one of attention, experts in every other layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture.recurrent import Mamba
from vram_planner.model_profiles.families.common import (
    attention,
    decoder,
    experts,
    hidden_size,
    mlp,
    n_layers,
    norms,
)
from vram_planner.model_profiles.families.hybrid import Parts, assemble, step_rank

if TYPE_CHECKING:
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS: Final = {
    "vocab_size": 65_536,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 262_144,
    "num_experts_per_tok": 2,
    "num_experts": 16,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/jamba/modeling_jamba.py."""
    said = config.has("num_key_value_heads")
    config = config.with_defaults(_DEFAULTS)
    config = config.with_defaults({"num_key_value_heads": config.raw("num_attention_heads") if said else 8})
    hidden = hidden_size(config)
    mamba, attending = _mamba(config), attention(config)
    dense: FeedForward = mlp(config)
    sparse = dense
    if config.integer("num_experts", most=10**5) > 1:
        sparse = experts(config, count=("num_experts",), width=("intermediate_size",))
    around = norms(hidden, "input_layernorm", "pre_ff_layernorm")
    rows = (
        Parts(
            attending if _falls_on(config, "attn", index) else mamba,
            sparse if _falls_on(config, "expert", index) else dense,
            around,
        )
        for index in range(n_layers(config))
    )
    return decoder(config, assemble(rows))


def _falls_on(config: Config, what: str, index: int) -> bool:
    period = config.integer(f"{what}_layer_period")
    return index % period == config.integer(f"{what}_layer_offset", least=0)


def _mamba(config: Config) -> Mamba:
    hidden = hidden_size(config)
    return Mamba(
        hidden=hidden,
        inner=config.integer("mamba_expand", most=10**3) * hidden,
        state_size=config.integer("mamba_d_state", most=10**5),
        step_rank=step_rank(config, "mamba_dt_rank"),
        kernel=config.integer("mamba_d_conv", most=10**3),
        conv_bias=config.flag("mamba_conv_bias"),
        bias=config.flag("mamba_proj_bias"),
        step_norms=True,
    )
