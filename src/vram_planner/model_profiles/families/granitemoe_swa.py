"""Granite with experts, three sliding layers to one full, and attention sinks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.granite_swa import granite_windows
from vram_planner.model_profiles.families.granitemoe import granite_experts

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_LAYERS = 32


def build(config: Config) -> Architecture:
    """Source: transformers models/granitemoe_swa/modeling_granitemoe_swa.py."""
    config = config.with_defaults({"num_hidden_layers": _LAYERS})
    return granite_experts(config, shared=True, sinks=True, sliding=granite_windows(config))
