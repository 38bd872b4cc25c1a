"""Youtu-LLM: latent attention without experts, a tied head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.model import Layer
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    decoder,
    hidden_size,
    mlp,
    n_layers,
    norms,
    unless_null,
)
from vram_planner.model_profiles.families.deepseek_v2 import latent_attention

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "max_position_embeddings": 131_072,
}
_QUERY_RANK = 1536


def build(config: Config) -> Architecture:
    """Source: transformers models/youtu/modeling_youtu.py; `q_lora_rank` null projects queries in one step."""
    rank = unless_null(config, "q_lora_rank", _QUERY_RANK)
    config = config.with_defaults({**_DEFAULTS, "q_lora_rank": rank})
    around = norms(hidden_size(config), *RMS_NORMS)
    layer = Layer(mixer=latent_attention(config), feed_forward=mlp(config), norms=around)
    return decoder(config, (layer,) * n_layers(config), tied=True)
