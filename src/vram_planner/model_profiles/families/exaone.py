"""EXAONE 3.0 and 3.5: Llama's layers under other names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import (
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


def build(config: Config) -> Architecture:
    """Source: LGAI-EXAONE's modeling_exaone.py; read as in vLLM model_executor/models/exaone.py."""
    block = attention(config)
    layers = stack(block, (None,) * n_layers(config), mlp(config), norms(block.hidden, "ln_1", "ln_2"))
    return decoder(config, layers)
