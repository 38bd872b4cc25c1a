"""Gemma 4 with eyes and ears (E2B, E4B, 26B-A4B, 31B): the text model, its towers and their projections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families import gemma4_text
from vram_planner.model_profiles.families.common import hidden_size
from vram_planner.model_profiles.families.gemma4_towers import audio_tower, vision_tower
from vram_planner.model_profiles.families.towers import tower_weights
from vram_planner.model_profiles.families.vision_language import language, with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """
    Source: transformers models/gemma4/modeling_gemma4.py, Gemma4Model.

    A config without vision_config or audio_config has no such tower. Checkpoints of models that borrow
    caches also hold projections that are never loaded.
    """
    text = language(config, "gemma4_text")
    width = hidden_size(text, gemma4_text.DEFAULTS["hidden_size"])
    towers: tuple[Weight, ...] = ()
    if config.raw("vision_config") is not None:
        vision = config.sub("vision_config")
        towers += (
            *vision_tower(vision),
            *tower_weights("embed_vision", (width, hidden_size(vision, 768))),
        )
    if config.raw("audio_config") is not None:
        audio = config.sub("audio_config")
        out = audio.integer("output_proj_dims", default=1536)
        towers += (*audio_tower(audio), *tower_weights("embed_audio", (width, out)))
    return with_towers(config, gemma4_text.build(text), towers, tied=True)
