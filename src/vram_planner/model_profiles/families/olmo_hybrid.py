"""OLMo Hybrid: three layers of gated delta rule to one of attention with norms behind its blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture.recurrent import GatedDeltaNet
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    hidden_size,
    mlp,
    n_layers,
    norms,
)
from vram_planner.model_profiles.families.hybrid import FULL, LINEAR, Parts, assemble, every, kinds

if TYPE_CHECKING:
    from vram_planner.architecture.attention import FullAttention
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS: Final = {
    "vocab_size": 100_352,
    "hidden_size": 3840,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 30,
    "max_position_embeddings": 65_536,
    "linear_conv_kernel_dim": 4,
}
_FUSED: Final = ("q_proj", "k_proj", "v_proj", "a_proj", "b_proj", "g_proj")


def build(config: Config) -> Architecture:
    """Source: transformers models/olmo_hybrid/modeling_olmo_hybrid.py; a layer at least attends, if only the last."""
    config = config.with_defaults(_DEFAULTS)
    hidden, count = hidden_size(config), n_layers(config)
    usual = every(count, 4)
    if FULL not in usual:
        usual = (*usual[:-1], FULL)
    feed = mlp(config)
    parts = {
        LINEAR: Parts(_delta_net(config), feed, norms(hidden, *RMS_NORMS)),
        FULL: Parts(
            _attention(config), feed, norms(hidden, "post_attention_layernorm", "post_feedforward_layernorm")
        ),
    }
    found = kinds(config, count, (LINEAR, FULL), usual, keys=("layer_types",))
    return decoder(config, assemble(parts[kind] for kind in found))


def _attention(config: Config) -> FullAttention:
    """Norms over all queries and over all keys."""
    plain = attention(config)
    bias = config.flag("attention_bias", default=False)
    widths = (plain.n_heads * plain.head_dim, plain.n_kv_heads * plain.head_dim)
    return attention(config, qkv_bias=bias, out_bias=bias, qk_norm=widths)


def _delta_net(config: Config) -> GatedDeltaNet:
    """Keys of three quarters of a head's share of the hidden size, values twice as wide. Source: OlmoHybridConfig."""
    hidden, heads = hidden_size(config), config.integer("num_attention_heads", most=10**5)
    keys = config.integer("linear_num_key_heads", default=heads, most=10**5)
    key_dim = config.integer("linear_key_head_dim", default=max(1, 3 * hidden // (4 * keys)), most=10**5)
    return GatedDeltaNet(
        hidden=hidden,
        key_heads=keys,
        value_heads=config.integer("linear_num_value_heads", default=heads, most=10**5),
        key_dim=key_dim,
        value_dim=config.integer("linear_value_head_dim", default=2 * key_dim, most=10**5),
        kernel=config.integer("linear_conv_kernel_dim", most=10**3),
        fused=_FUSED,
        out_name="o_proj",
    )
