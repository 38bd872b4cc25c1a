"""Mistral Small 3.1 and 3.2, Devstral Small 2: Mistral, a Pixtral tower and the projector between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families import mistral
from vram_planner.model_profiles.families.common import hidden_size
from vram_planner.model_profiles.families.towers import pixtral, tower_weights

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """Source: transformers models/mistral3/modeling_mistral3.py, Mistral3MultiModalProjector."""
    tied = {"tie_word_embeddings": config.raw("tie_word_embeddings")}
    text, vision = config.sub("text_config").with_defaults(tied), config.sub("vision_config")
    eye, width = hidden_size(vision, 1024), hidden_size(text)
    merged = eye * config.integer("spatial_merge_size", default=2, most=64) ** 2
    projector = tower_weights("projector", (eye,), (eye, merged), (width, eye), (width, width))
    if config.flag("multimodal_projector_bias", default=False):
        projector += tower_weights("projector.bias", (width,), (width,))
    return mistral.build(text, towers=(*pixtral(vision), *projector))
