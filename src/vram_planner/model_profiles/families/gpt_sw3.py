"""GPT-SW3: GPT-2 under another name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families import gpt2
from vram_planner.model_profiles.families.names import GPT_NAMES, today

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """Source: transformers models/auto/configuration_auto.py, where gpt-sw3 stands for GPT2Config."""
    return gpt2.build(
        today(
            config,
            {key: name for key, name in GPT_NAMES.items() if key != "intermediate_size"},
            hidden_size=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=1024,
            vocab_size=50_257,
        )
    )
