"""LLaVA-NeXT (1.6): LLaVA with a learned mark at the end of each row of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families import build as build_inner
from vram_planner.model_profiles.families.llava import CLIP_LARGE, projector
from vram_planner.model_profiles.families.towers import tower_weights
from vram_planner.model_profiles.families.vision_language import eye, language, section, with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """Source: transformers models/llava_next/modeling_llava_next.py."""
    inner = build_inner(language(config, "llama"))
    vision = section(config, "vision_config", CLIP_LARGE)
    towers = (
        *eye(vision, "clip_vision_model"),
        *projector(config, vision, inner.hidden),
        *tower_weights("image_newline", (inner.hidden,)),
    )
    return with_towers(config, inner, towers)
