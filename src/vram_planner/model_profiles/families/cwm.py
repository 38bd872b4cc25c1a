"""Code World Model 32B: Llama with three sliding layers after each full one."""

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
)
from vram_planner.model_profiles.families.patterns import FULL, SLIDING, layer_kinds

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_EVERY = 4
# CwmConfig's own defaults.
_DEFAULTS = {
    "vocab_size": 128_256,
    "hidden_size": 6144,
    "intermediate_size": 21_504,
    "num_hidden_layers": 64,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
    "sliding_window": 8192,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/cwm/modeling_cwm.py; its attention has no biases."""
    config = config.with_defaults(_DEFAULTS)
    block, count = attention(config), n_layers(config)
    feed = mlp(config, bias=config.flag("mlp_bias", default=False))
    default = [SLIDING if index % _EVERY else FULL for index in range(count)]
    kinds = layer_kinds(config, "layer_types", count, (SLIDING, FULL), default)
    window = config.integer("sliding_window", least=0) or None
    widths = [window if kind == SLIDING else None for kind in kinds]
    return decoder(config, stack(block, widths, feed, norms(block.hidden, *RMS_NORMS)))
