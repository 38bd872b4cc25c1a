"""Gemma 4 12B, the language model: Gemma 4 without experts and without per-layer embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.gemma4_text import DEFAULTS as _GEMMA4
from vram_planner.model_profiles.families.gemma4_text import gemma4_decoder

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# Gemma4UnifiedTextConfig's own defaults, where they differ.
DEFAULTS = {**_GEMMA4, "max_position_embeddings": 262_144, "sliding_window": 1024}


def build(config: Config) -> Architecture:
    """Source: transformers models/gemma4_unified/modeling_gemma4_unified.py, Gemma4UnifiedTextModel."""
    return gemma4_decoder(config.with_defaults(DEFAULTS).replaced({"enable_moe_block": False}), width=0)
