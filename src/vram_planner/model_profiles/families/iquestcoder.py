"""IQuest-Coder: Llama with heads of their own width."""

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
    unless_null,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 76_800,
    "hidden_size": 5120,
    "intermediate_size": 27_648,
    "num_hidden_layers": 80,
    "num_attention_heads": 40,
    "max_position_embeddings": 131_072,
}
_KV_HEADS = 8
_HEAD_DIM = 128


def build(config: Config) -> Architecture:
    """Source: transformers models/iquestcoder/configuration_iquestcoder.py, which builds models/llama."""
    config = config.with_defaults(_DEFAULTS)
    bias = config.flag("attention_bias", default=False)
    block = attention(
        config,
        head_dim=unless_null(config, "head_dim", _HEAD_DIM),
        kv_heads=unless_null(config, "num_key_value_heads", _KV_HEADS),
        qkv_bias=bias,
        out_bias=bias,
    )
    feed = mlp(config, bias=config.flag("mlp_bias", default=False))
    return decoder(config, stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *RMS_NORMS)))
