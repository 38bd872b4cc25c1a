"""Llama 4 with its vision tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families import llama4_text
from vram_planner.model_profiles.families.towers import TEXT_ONLY, encoder, sees, tower_weights

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

_EYE = {
    "hidden_size": 768,
    "intermediate_size": 5632,
    "num_hidden_layers": 34,
    "vision_output_dim": 7680,
    "projector_input_dim": 4096,
    "projector_output_dim": 4096,
}
_IMAGE, _PATCH = 448, 14


def build(config: Config) -> Architecture:
    """
    Source: transformers models/llama4/modeling_llama4.py, Llama4ForConditionalGeneration.

    The tower is counted where `architectures` names that class; AutoModelForCausalLM builds the text model alone.
    """
    text = config.sub("text_config").with_defaults({"model_type": "llama4_text"})
    if not sees(config):
        return llama4_text.build(text, notes=(TEXT_ONLY,))
    hidden = text.with_defaults({"hidden_size": 5120}).integer("hidden_size", most=10**6)
    return llama4_text.build(text, towers=_tower(config.sub("vision_config").with_defaults(_EYE), hidden))


def _tower(vision: Config, hidden: int) -> tuple[Weight, ...]:
    """Source: Llama4VisionModel and Llama4MultiModalProjector."""
    width, inner = vision.integer("hidden_size", most=10**6), vision.integer("intermediate_size")
    patch, channels = (
        vision.integer("patch_size", default=_PATCH, most=10**4),
        vision.integer("num_channels", default=3),
    )
    side = vision.integer("image_size", default=_IMAGE, most=10**5) // patch
    middle, out = vision.integer("projector_input_dim"), vision.integer("projector_output_dim")
    stem = tower_weights(
        "vision.stem", (width, channels * patch**2), (width,), (side**2 + 1, width), *[(width,)] * 4
    )
    adapter = tower_weights("vision.adapter", (middle, inner), (out, out))
    projector = tower_weights("projector", (hidden, vision.integer("vision_output_dim")))
    return stem + encoder(vision.integer("num_hidden_layers"), width, inner) + adapter + projector
