"""BitNet b1.58: Llama with a norm inside each block; counted in the dtype of the config, not in ternary packing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, Weight
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

# BitNetConfig's own defaults.
_DEFAULTS = {
    "vocab_size": 128_256,
    "hidden_size": 2560,
    "intermediate_size": 6912,
    "num_hidden_layers": 30,
    "num_attention_heads": 20,
    "max_position_embeddings": 2048,
}
_KV_HEADS = 5


def build(config: Config) -> Architecture:
    """Source: transformers models/bitnet/modeling_bitnet.py."""
    config = config.with_defaults(_DEFAULTS)
    if not config.has("num_key_value_heads"):  # null means as many as query heads
        config = config.with_defaults({"num_key_value_heads": _KV_HEADS})
    bias = config.flag("attention_bias", default=False)
    block = attention(config, qkv_bias=bias, out_bias=bias)
    feed = mlp(config)
    small = (
        *norms(block.hidden, *RMS_NORMS),
        Weight(name="attn_sub_norm", shape=(block.hidden,), role=Role.NORM, units=block.n_heads),
        Weight(name="ffn_sub_norm", shape=(feed.intermediate,), role=Role.NORM, units=feed.intermediate),
    )
    return decoder(config, stack(block, (None,) * n_layers(config), feed, small))
