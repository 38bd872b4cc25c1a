"""LLaVA 1.5 and what follows it: any language model, CLIP, SigLIP or Pixtral, two linear layers between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.model_profiles.families import build as build_inner
from vram_planner.model_profiles.families.common import hidden_size
from vram_planner.model_profiles.families.towers import tower_weights
from vram_planner.model_profiles.families.vision_language import eye, language, section, with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

# What LlavaConfig takes where there is no vision_config at all.
CLIP_LARGE: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "image_size": 336,
}
_WIDTH = {"pixtral": 1024}


def build(config: Config) -> Architecture:
    """Source: transformers models/llava/modeling_llava.py, LlavaMultiModalProjector."""
    inner = build_inner(language(config, "llama"))
    vision = section(config, "vision_config", CLIP_LARGE)
    towers = (*eye(vision, "clip_vision_model"), *projector(config, vision, inner.hidden))
    return with_towers(config, inner, towers, either=True)


def projector(config: Config, vision: Config, width: int) -> tuple[Weight, ...]:
    """Two linear layers; features of several layers of the tower come side by side."""
    layers = config.raw("vision_feature_layer")
    taken = len(layers) if isinstance(layers, list | tuple) and layers else 1
    into = taken * hidden_size(vision, _WIDTH.get(vision.text("model_type", default=""), 768))
    shapes: list[tuple[int, ...]] = [(width, into), (width, width)]
    if config.flag("multimodal_projector_bias", default=True):
        shapes += [(width,), (width,)]
    return tower_weights("projector", *shapes)
