"""MiniCPM 3: latent attention without experts, a tied head."""

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
    "vocab_size": 73_448,
    "hidden_size": 2560,
    "intermediate_size": 6400,
    "num_hidden_layers": 62,
    "num_attention_heads": 40,
    "kv_lora_rank": 256,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "max_position_embeddings": 32_768,
}
_QUERY_RANK = 768


def build(config: Config) -> Architecture:
    """Source: transformers models/minicpm3/modeling_minicpm3.py; `q_lora_rank` null projects queries in one step."""
    rank = unless_null(config, "q_lora_rank", _QUERY_RANK)
    config = config.with_defaults({**_DEFAULTS, "q_lora_rank": rank})
    hidden, heads = hidden_size(config), config.integer("num_attention_heads", most=10**5)
    config = config.with_defaults({"v_head_dim": max(1, hidden // heads)})
    feed = mlp(config, bias=config.flag("mlp_bias", default=False))
    layer = Layer(mixer=latent_attention(config), feed_forward=feed, norms=norms(hidden, *RMS_NORMS))
    return decoder(config, (layer,) * n_layers(config), tied=True)
