"""PaliGemma 1 and 2: Gemma or Gemma 2 behind SigLIP, one linear layer between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.model_profiles.families import build as build_inner
from vram_planner.model_profiles.families.common import hidden_size
from vram_planner.model_profiles.families.towers import tower_weights
from vram_planner.model_profiles.families.vision_language import eye, language, section, with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# What PaliGemmaConfig takes where one of the two is missing.
_TEXT: dict[str, Any] = {
    "model_type": "gemma",
    "vocab_size": 257_152,
    "hidden_size": 2048,
    "intermediate_size": 16_384,
    "num_hidden_layers": 18,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
}
_VISION: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4096,
    "num_hidden_layers": 27,
    "patch_size": 14,
    "image_size": 224,
    "vision_use_head": False,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/paligemma/modeling_paligemma.py, PaliGemmaMultiModalProjector."""
    inner = build_inner(language(config, "gemma", _TEXT))
    vision = section(config, "vision_config", _VISION)
    out = config.integer("projection_dim", default=2048, most=10**6)
    projector = tower_weights("projector", (out, hidden_size(vision, 768)), (out,))
    towers = (*eye(vision, "siglip_vision_model"), *projector)
    return with_towers(config, inner, towers, tied=True)
