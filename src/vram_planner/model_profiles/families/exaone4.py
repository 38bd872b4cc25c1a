"""EXAONE 4: norms after the blocks, one norm a head over queries and keys, hybrid windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import (
    attention,
    decoder,
    mlp,
    n_layers,
    norms,
    stack,
    windows,
)
from vram_planner.model_profiles.families.olmo2 import POST_NORMS

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_EVERY = 4


def build(config: Config) -> Architecture:
    """Source: transformers models/exaone4/modeling_exaone4.py; a config without a window has none."""
    width = attention(config).head_dim
    block = attention(config, qk_norm=(width, width))
    window = config.optional_integer("sliding_window")
    widths = windows(config, n_layers(config), window=window, every=_every(config))
    return decoder(config, stack(block, widths, mlp(config), norms(block.hidden, *POST_NORMS)))


def _every(config: Config) -> int:
    """`sliding_window_pattern` is a number, or 'LLLG': local layers and a global one."""
    pattern = config.raw("sliding_window_pattern")
    return (
        len(pattern)
        if isinstance(pattern, str) and pattern
        else config.integer("sliding_window_pattern", default=_EVERY)
    )
