"""GPT-NeoX Japanese 2.7B: no biases but one in the last layer's attention, a tied head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.model import Layer
from vram_planner.architecture.weight import Role, Weight
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    mlp,
    n_layers,
    norms,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "hidden_size": 2560,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "vocab_size": 32_000,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/gpt_neox_japanese/modeling_gpt_neox_japanese.py (`use_bias`)."""
    own = config.with_defaults(_DEFAULTS)
    block = attention(own, fused_qkv=True)
    times = own.integer("intermediate_multiple_size", default=4, most=1000)
    feed = mlp(own, intermediate=times * block.hidden, gated=False)
    around = norms(block.hidden, *RMS_NORMS, bias=True)
    dense_bias = Weight(name="dense_bias", shape=(block.hidden,), role=Role.BIAS)
    first = Layer(mixer=block, feed_forward=feed, norms=around)
    last = Layer(mixer=block, feed_forward=feed, norms=(*around, dense_bias))
    layers = (*(first,) * (n_layers(own) - 1), last)
    return decoder(own, layers, tied=True, final_norm=norms(block.hidden, "final_layer_norm", bias=True))
