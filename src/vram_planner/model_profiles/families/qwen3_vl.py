"""Qwen 3 VL, dense: Qwen 3, a vision transformer and DeepStack's mergers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vram_planner.model_profiles.families import qwen3
from vram_planner.model_profiles.families.eyes import qwen3_eye
from vram_planner.model_profiles.families.towers_qwen import qwen3_vision
from vram_planner.model_profiles.families.vision_language import with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_TEXT: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 22_016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 128_000,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/qwen3_vl/modeling_qwen3_vl.py."""
    text = config.sub("text_config").with_defaults(_TEXT)
    vision = config.sub("vision_config")
    whole = with_towers(config, qwen3.build(text), qwen3_vision(vision))
    return replace(whole, eye=qwen3_eye(vision, deepest=3))
