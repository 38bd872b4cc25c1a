"""Ministral 3: Llama with heads of their own width; a window only where the config has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families import mistral3
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    mlp,
    n_layers,
    norms,
    stack,
    unless_null,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 131_072,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 34,
    "num_attention_heads": 32,
    "max_position_embeddings": 262_144,
}
_KV_HEADS = 8
_HEAD_DIM = 128


def build(config: Config) -> Architecture:
    """
    Source: transformers models/ministral3/modeling_ministral3.py; defaults of Ministral3Config.

    Some name the whole model so, with its vision tower: that is Mistral 3 with this text model.
    """
    if config.raw("text_config") is not None:
        return mistral3.build(config)
    config = config.with_defaults(_DEFAULTS)
    block = attention(
        config,
        head_dim=unless_null(config, "head_dim", _HEAD_DIM),
        kv_heads=unless_null(config, "num_key_value_heads", _KV_HEADS),
    )
    widths = (config.optional_integer("sliding_window"),) * n_layers(config)
    return decoder(config, stack(block, widths, mlp(config), norms(block.hidden, *RMS_NORMS)))
