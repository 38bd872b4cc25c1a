"""Gemma 4 12B's drafter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.gemma4_assistant import drafter
from vram_planner.model_profiles.families.gemma4_unified_text import DEFAULTS

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_BACKBONE = 3840


def build(config: Config) -> Architecture:
    """Source: transformers models/gemma4_unified_assistant/modeling_gemma4_unified_assistant.py."""
    return drafter(config, DEFAULTS, _BACKBONE)
