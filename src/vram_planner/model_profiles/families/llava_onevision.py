"""LLaVA-OneVision: Qwen 2 behind SigLIP, with LLaVA-NeXT's projector and mark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.model_profiles.families import build as build_inner
from vram_planner.model_profiles.families.llava import projector
from vram_planner.model_profiles.families.towers import tower_weights
from vram_planner.model_profiles.families.vision_language import eye, language, section, with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# What LlavaOnevisionConfig takes where there is no vision_config at all.
_SIGLIP: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "patch_size": 14,
    "image_size": 384,
    "vision_use_head": False,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/llava_onevision/modeling_llava_onevision.py."""
    inner = build_inner(language(config, "qwen2"))
    vision = section(config, "vision_config", _SIGLIP)
    towers = (
        *eye(vision, "siglip_vision_model"),
        *projector(config, vision, inner.hidden),
        *tower_weights("image_newline", (inner.hidden,)),
    )
    return with_towers(config, inner, towers, either=True)
