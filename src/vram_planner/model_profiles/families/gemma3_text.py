"""Gemma 3, the language model: five sliding layers to one full layer, norms on queries and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.model_profiles.families.common import (
    SANDWICH_NORMS,
    attention,
    decoder,
    mlp,
    n_layers,
    norms,
    stack,
    windows,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_EVERY = 6
# Gemma3TextConfig's own defaults: the published configs of 4B to 27B leave most of them out.
_DEFAULTS = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
}


def build(config: Config, **rest: Any) -> Architecture:
    """
    Source: transformers models/gemma3/modeling_gemma3.py, Gemma3TextModel.

    `rest` are Architecture's own fields (the vision tower of the larger models).
    """
    config = config.with_defaults(_DEFAULTS)
    bias = config.flag("attention_bias", default=False)
    width = config.integer("head_dim", most=10**5)
    block = attention(config, qkv_bias=bias, out_bias=bias, qk_norm=(width, width))
    every = config.integer("sliding_window_pattern", default=_EVERY)
    widths = windows(config, n_layers(config), window=config.integer("sliding_window"), every=every)
    layers = stack(block, widths, mlp(config), norms(block.hidden, *SANDWICH_NORMS))
    return decoder(config, layers, tied=True, **rest)
