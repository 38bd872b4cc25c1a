"""Mistral 7B, Nemo, Small, Large and Ministral 8B."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
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

_KV_HEADS = 8
_WINDOW = 4096


def build(config: Config, **rest: Any) -> Architecture:
    """
    Source: transformers models/mistral/modeling_mistral.py.

    A config without `sliding_window` has a window of 4096; one with null has none.
    `rest` are Architecture's own fields (the vision tower of Mistral Small 3.1).
    """
    count = n_layers(config)
    silent = None if config.has("sliding_window") else _WINDOW
    window = config.optional_integer("sliding_window") or silent
    block = attention(config, kv_heads=_KV_HEADS)
    layers = stack(block, windows(config, count, window=window), mlp(config), norms(block.hidden, *RMS_NORMS))
    return decoder(config, layers, **rest)
