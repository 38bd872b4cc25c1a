"""OLMo 3: OLMo 2 with three sliding layers to one full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import decoder, mlp, n_layers, norms, stack, windows
from vram_planner.model_profiles.families.olmo2 import POST_NORMS, olmo_attention

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_WINDOW = 4096
_EVERY = 4


def build(config: Config) -> Architecture:
    """Source: transformers models/olmo3/modeling_olmo3.py."""
    block = olmo_attention(config)
    window = config.integer("sliding_window", default=_WINDOW)
    widths = windows(config, n_layers(config), window=window, every=_EVERY)
    return decoder(config, stack(block, widths, mlp(config), norms(block.hidden, *POST_NORMS)))
