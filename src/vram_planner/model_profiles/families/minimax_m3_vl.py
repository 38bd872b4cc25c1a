"""MiniMax-M3 with its vision tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families import minimax_m3_vl_text
from vram_planner.model_profiles.families.towers import encoder, tower_weights

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_EYE = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
_PATCH, _FRAMES, _MERGED, _JOINT, _TEXT_HIDDEN = 14, 2, 2, 6144, 6144


def build(config: Config) -> Architecture:
    """Source: transformers models/minimax_m3_vl/modeling_minimax_m3_vl.py, MiniMaxM3SparseForConditionalGeneration."""
    tied = {"tie_word_embeddings": config.raw("tie_word_embeddings"), "model_type": "minimax_m3_vl_text"}
    text, vision = (
        config.sub("text_config").with_defaults(tied),
        config.sub("vision_config").with_defaults(_EYE),
    )
    hidden = text.integer("hidden_size", default=_TEXT_HIDDEN, most=10**6)
    joint = config.integer("projector_hidden_size", default=_JOINT)
    width, patch = (
        vision.integer("hidden_size", most=10**6),
        vision.integer("patch_size", default=_PATCH, most=10**4),
    )
    channels = vision.integer("num_channels", default=3, most=10**3)
    frames = vision.integer("temporal_patch_size", default=_FRAMES, most=10**3)
    merged = hidden * vision.integer("spatial_merge_size", default=_MERGED, most=10**2) ** 2
    towers = (
        *tower_weights("vision.stem", (width, channels, frames, patch, patch), (width,), (width,)),
        *encoder(vision.integer("num_hidden_layers"), width, vision.integer("intermediate_size")),
        *tower_weights("projector.patch", (joint, width), (joint,), (hidden, joint), (hidden,)),
        *tower_weights("projector.merged", (joint, merged), (joint,), (hidden, joint), (hidden,)),
    )
    return minimax_m3_vl_text.build(text, towers=towers)
