"""Mistral Small 3.1 and 3.2, Devstral Small 2: Mistral, a Pixtral tower and the projector between them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vram_planner.model_profiles.families import mistral
from vram_planner.model_profiles.families.common import hidden_size
from vram_planner.model_profiles.families.towers import pixtral, tower_weights
from vram_planner.model_profiles.families.vision_language import language, section, with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# What Mistral3Config takes where one of the two is missing.
_TEXT: dict[str, Any] = {
    "vocab_size": 131_072,
    "hidden_size": 5120,
    "intermediate_size": 32_768,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "head_dim": 128,
}
_VISION: dict[str, Any] = {"patch_size": 14}


def build(config: Config) -> Architecture:
    """Source: transformers models/mistral3/modeling_mistral3.py, Mistral3MultiModalProjector."""
    text, vision = language(config, "mistral", _TEXT), section(config, "vision_config", _VISION)
    absent = config.raw("text_config") is None
    # null, unlike silence, means that no layer slides.
    inner = mistral.build(text.replaced({"sliding_window": None}) if absent else text)
    eye, width = hidden_size(vision, 1024), inner.hidden
    merged = eye * config.integer("spatial_merge_size", default=2, most=64) ** 2
    projector = tower_weights("projector", (eye,), (eye, merged), (width, eye), (width, width))
    if config.flag("multimodal_projector_bias", default=False):
        projector += tower_weights("projector.bias", (width,), (width,))
    # Mistral3Config takes true for silence; the silent configs that are published stand beside an lm_head of
    # their own, which transformers then keeps.
    tied = absent or inner.tied_head
    whole = with_towers(config, inner, (*pixtral(vision), *projector), tied=tied)
    patch = vision.integer("patch_size", default=14, most=1 << 10)
    return replace(whole, pixels_per_token=3 * patch * patch * merged // eye)
