"""Granite 3 with experts and one that every token uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.granitemoe import granite_experts

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """Source: transformers models/granitemoeshared/modeling_granitemoeshared.py."""
    return granite_experts(config, shared=True)
