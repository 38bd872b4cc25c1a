"""Helium: Llama with an output projection that is always square and has no bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.errors import ConfigError
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

_DEFAULTS = {
    "vocab_size": 48_000,
    "hidden_size": 2560,
    "intermediate_size": 7040,
    "num_hidden_layers": 24,
    "num_attention_heads": 20,
    "num_key_value_heads": 20,
    "max_position_embeddings": 4096,
}
_HEAD_DIM = 128


def build(config: Config) -> Architecture:
    """Source: transformers models/helium/modeling_helium.py."""
    config = config.with_defaults(_DEFAULTS)
    bias = config.flag("attention_bias", default=False)
    block = attention(config, head_dim=_HEAD_DIM, qkv_bias=bias)
    if block.n_heads * block.head_dim != block.hidden:
        raise ConfigError(
            f"{config.where}hidden_size ({block.hidden}) is not {block.n_heads} heads of {block.head_dim}",
            hint="Helium's output projection is square: correct 'head_dim' or 'num_attention_heads'",
        )
    feed = mlp(config, bias=config.flag("mlp_bias", default=False))
    return decoder(config, stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *RMS_NORMS)))
