"""Idefics 3 and SmolVLM: Llama behind a SigLIP without its head; patches are shuffled together, then projected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families import build as build_inner
from vram_planner.model_profiles.families.common import hidden_size
from vram_planner.model_profiles.families.towers import siglip, tower_weights
from vram_planner.model_profiles.families.vision_language import language, with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# Idefics3VisionConfig.
_VISION = {"hidden_size": 1152, "patch_size": 32}


def build(config: Config) -> Architecture:
    """Source: transformers models/idefics3/modeling_idefics3.py, Idefics3Connector."""
    inner = build_inner(language(config, "llama"))
    vision = config.sub("vision_config").with_defaults(_VISION).replaced({"vision_use_head": False})
    into = hidden_size(vision) * config.integer("scale_factor", default=2, most=64) ** 2
    towers = (*siglip(vision), *tower_weights("projector", (inner.hidden, into)))
    return with_towers(config, inner, towers)
