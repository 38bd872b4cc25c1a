"""Qwen 2 Audio: Qwen 2 behind Whisper's encoder, with learned positions, and one linear layer between them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.model_profiles.families import build as build_inner
from vram_planner.model_profiles.families.towers import tower_weights
from vram_planner.model_profiles.families.towers_qwen import whisper
from vram_planner.model_profiles.families.vision_language import language

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """Source: transformers models/qwen2_audio/modeling_qwen2_audio.py; its head is never tied."""
    audio, inner = config.sub("audio_config"), build_inner(language(config, "qwen2"))
    width = audio.integer("d_model", default=1280, most=10**6)
    positions = audio.integer("max_source_positions", default=1500, most=10**6)
    projector = tower_weights("projector", (inner.hidden, width), (inner.hidden,))
    return replace(inner, towers=(*whisper(audio, (positions, width)), *projector), tied_head=False)
