"""Aya Vision: Cohere 2 behind SigLIP, a gated projector between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.model_profiles.families import build as build_inner
from vram_planner.model_profiles.families.common import hidden_size
from vram_planner.model_profiles.families.towers import tower_weights
from vram_planner.model_profiles.families.vision_language import eye, language, section, with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# What AyaVisionConfig takes where there is no vision_config at all.
_VISION: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "patch_size": 14,
    "image_size": 384,
    "vision_use_head": False,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/aya_vision/modeling_aya_vision.py, AyaVisionMultiModalProjector."""
    inner = build_inner(language(config, "cohere2"))
    vision = section(config, "vision_config", _VISION)
    into = hidden_size(vision, 768) * config.integer("downsample_factor", default=2, most=64) ** 2
    middle = config.integer("alignment_intermediate_size", default=inner.hidden, most=10**6)
    projector = tower_weights(
        "projector",
        *((into,), (into,), (middle, into), (middle,)),
        *((inner.hidden, middle // 2), (inner.hidden,)),
    )
    return with_towers(config, inner, (*eye(vision, "siglip_vision_model"), *projector), tied=True)
