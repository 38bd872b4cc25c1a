"""Qwen 2 VL: Qwen 2 with a vision transformer; rotary positions in three dimensions change no tensor."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vram_planner.model_profiles.families import qwen2
from vram_planner.model_profiles.families.eyes import qwen2_eye
from vram_planner.model_profiles.families.towers_qwen import qwen2_vision
from vram_planner.model_profiles.families.vision_language import with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# Qwen2VLTextConfig and Qwen2_5_VLTextConfig.
_TEXT: dict[str, Any] = {
    "vocab_size": 152_064,
    "hidden_size": 8192,
    "intermediate_size": 29_568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "max_window_layers": 80,
    "max_position_embeddings": 32_768,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/qwen2_vl/modeling_qwen2_vl.py."""
    vision = config.sub("vision_config")
    whole = with_towers(config, qwen2.build(text_of(config)), qwen2_vision(vision), either=True)
    return replace(whole, eye=qwen2_eye(vision))


def text_of(config: Config) -> Config:
    """The language model's figures: in `text_config`, or beside it in the configs of before 2025."""
    text = config if config.raw("text_config") is None else config.sub("text_config")
    if text.raw("num_attention_heads") is None:
        text = text.with_defaults({"num_key_value_heads": 8})
    return text.with_defaults(_TEXT)
