"""Gemma 4 12B with eyes and ears, but without encoders: patches and sound go through one projection each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families import gemma4_unified_text
from vram_planner.model_profiles.families.common import hidden_size
from vram_planner.model_profiles.families.gemma4_text import DEFAULTS
from vram_planner.model_profiles.families.towers import tower_weights
from vram_planner.model_profiles.families.vision_language import language, with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """Source: transformers models/gemma4_unified/modeling_gemma4_unified.py, Gemma4UnifiedModel."""
    text = language(config, "gemma4_unified_text")
    width = hidden_size(text, DEFAULTS["hidden_size"])
    towers: tuple[Weight, ...] = ()
    if config.raw("vision_config") is not None:
        towers += _patches(config.sub("vision_config"), width)
    if config.raw("audio_config") is not None:
        samples = config.sub("audio_config").integer("audio_embed_dim", default=640)
        towers += tower_weights("embed_audio", (width, samples))
    return with_towers(config, gemma4_unified_text.build(text), towers, tied=True)


def _patches(vision: Config, width: int) -> tuple[Weight, ...]:
    """Source: Gemma4UnifiedVisionEmbedder."""
    side = vision.integer("patch_size", default=16, most=10**4) * vision.integer(
        "pooling_kernel_size", default=3, most=10**3
    )
    pixels, inner = 3 * side**2, vision.integer("mm_embed_dim", default=3840)
    places = vision.integer("mm_posemb_size", default=1120)
    out = vision.integer("output_proj_dims", default=3840)
    vector = (inner,)
    return tower_weights(
        "embed_vision",
        (places, 2, inner),
        *[(pixels,), (pixels,), (inner, pixels), vector, vector, vector, vector, vector],
        (width, out),
    )
