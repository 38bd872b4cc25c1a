"""Qwen 1.5, Qwen 2, Qwen 2.5, QwQ and the R1 distillations on them."""

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
    windows,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_WINDOW = 4096
_FULL_LAYERS = 28


def build(config: Config) -> Architecture:
    """Source: transformers models/qwen2/modeling_qwen2.py: biases on q, k and v, none on o."""
    block = attention(config, qkv_bias=True)
    return decoder(config, stack(block, qwen_windows(config), mlp(config), norms(block.hidden, *RMS_NORMS)))


def qwen_windows(config: Config) -> tuple[int | None, ...]:
    """Only with `use_sliding_window`, and then the layers from `max_window_layers` on. Source: Qwen2Config."""
    count = n_layers(config)
    window = None
    if config.flag("use_sliding_window", default=False):
        window = config.integer("sliding_window", default=_WINDOW)
    if config.raw("layer_types") is not None:
        return windows(config, count, window=window)
    full = config.integer("max_window_layers", default=_FULL_LAYERS, least=0)
    return tuple(window if index >= full else None for index in range(count))
