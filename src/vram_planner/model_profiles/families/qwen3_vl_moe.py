"""Qwen 3 VL with experts: Qwen 3 MoE behind the eyes of Qwen 3 VL."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vram_planner.model_profiles.families import qwen3_moe
from vram_planner.model_profiles.families.eyes import qwen3_eye
from vram_planner.model_profiles.families.towers_qwen import qwen3_vision
from vram_planner.model_profiles.families.vision_language import with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_TEXT: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "moe_intermediate_size": 1408,
    "num_experts_per_tok": 4,
    "max_position_embeddings": 128_000,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/qwen3_vl_moe/modeling_qwen3_vl_moe.py."""
    text = config.sub("text_config").with_defaults(_TEXT)
    if text.raw("num_experts", "num_local_experts") is None:
        text = text.with_defaults({"num_experts": 60})
    vision = config.sub("vision_config")
    whole = with_towers(config, qwen3_moe.build(text), qwen3_vision(vision))
    return replace(whole, eye=qwen3_eye(vision, deepest=3))
