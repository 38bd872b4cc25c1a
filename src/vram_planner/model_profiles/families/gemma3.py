"""Gemma 3 with eyes (4B, 12B, 27B): the text model, a SigLIP tower and the projector between them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, Weight
from vram_planner.model_profiles.families import gemma3_text
from vram_planner.model_profiles.families.common import hidden_size
from vram_planner.model_profiles.families.eyes import siglip_eye
from vram_planner.model_profiles.families.towers import siglip
from vram_planner.model_profiles.families.vision_language import with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_TEXT_HIDDEN = 2304

_IMAGE_SIZE, _IMAGE_TOKENS = 224, 256


def build(config: Config) -> Architecture:
    """Source: transformers models/gemma3/modeling_gemma3.py, Gemma3MultiModalProjector."""
    text, vision = config.sub("text_config"), config.sub("vision_config")
    width = hidden_size(vision, 768)
    projector = (
        Weight(name="projector.input", shape=(width, hidden_size(text, _TEXT_HIDDEN)), role=Role.TOWER),
        Weight(name="projector.norm", shape=(width,), role=Role.TOWER),
    )
    whole = with_towers(config, gemma3_text.build(text), (*siglip(vision), *projector), tied=True)
    side = vision.integer("image_size", default=_IMAGE_SIZE, most=1 << 14)
    tokens = config.integer("mm_tokens_per_image", default=_IMAGE_TOKENS, most=1 << 20)
    eye = siglip_eye(vision, tokens=tokens, out=whole.hidden)
    return replace(whole, pixels_per_token=3 * side * side // tokens, eye=eye)
