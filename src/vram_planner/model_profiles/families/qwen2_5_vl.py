"""Qwen 2.5 VL: the language model of Qwen 2 VL, another vision transformer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.model_profiles.families import qwen2
from vram_planner.model_profiles.families.eyes import qwen2_5_eye
from vram_planner.model_profiles.families.qwen2_vl import text_of
from vram_planner.model_profiles.families.towers_qwen import qwen2_5_vision
from vram_planner.model_profiles.families.vision_language import with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """Source: transformers models/qwen2_5_vl/modeling_qwen2_5_vl.py."""
    vision = config.sub("vision_config")
    whole = with_towers(config, qwen2.build(text_of(config)), qwen2_5_vision(vision), either=True)
    return replace(whole, eye=qwen2_5_eye(vision))
