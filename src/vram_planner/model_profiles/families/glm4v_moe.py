"""GLM-4.5V and GLM-4.6V: GLM-4.5-Air's layers behind the eyes of GLM-4.1V."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.model_profiles.families import glm4_moe
from vram_planner.model_profiles.families.glm4v import glm_vision
from vram_planner.model_profiles.families.vision_language import with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_TEXT: dict[str, Any] = {
    "vocab_size": 151_424,
    "hidden_size": 4096,
    "intermediate_size": 10_944,
    "num_hidden_layers": 46,
    "num_attention_heads": 96,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 128,
    "attention_bias": True,
    "max_position_embeddings": 65_536,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/glm4v_moe/modeling_glm4v_moe.py; it has no norms on queries and keys."""
    text = config.sub("text_config").with_defaults(_TEXT).replaced({"use_qk_norm": False})
    # Heads that do not fill the width are rounded down there.
    heads = text.integer("num_attention_heads", most=10**5)
    text = text.with_defaults({"head_dim": max(1, text.integer("hidden_size", most=10**6) // heads)})
    return with_towers(config, glm4_moe.build(text), glm_vision(config.sub("vision_config")), either=True)
