"""A.X K1: DeepSeek-V3's layers with a norm after the experts."""

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
)
from vram_planner.model_profiles.families.deepseek_v2 import latent_attention, latent_experts
from vram_planner.model_profiles.families.deepseek_v32 import with_experts
from vram_planner.model_profiles.families.patterns import DENSE, sparse_kinds

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# AXK1Config's own defaults.
_DEFAULTS = {
    "vocab_size": 163_840,
    "hidden_size": 7168,
    "intermediate_size": 18_432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 64,
    "n_shared_experts": 1,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "num_experts_per_tok": 8,
    "max_position_embeddings": 32_768,
}
_EXPERTS = 192


def build(config: Config) -> Architecture:
    """Source: transformers models/axk1/modeling_axk1.py, AXK1MoE."""
    config = with_experts(config.with_defaults(_DEFAULTS), _EXPERTS)
    hidden, mixer = hidden_size(config), latent_attention(config)
    layer_norms = norms(hidden, *RMS_NORMS)
    dense = Layer(mixer=mixer, feed_forward=mlp(config), norms=layer_norms)
    sparse = Layer(
        mixer=mixer,
        feed_forward=latent_experts(config, correction_bias=True),
        norms=(*layer_norms, *norms(hidden, "mlp.post_mlp_layernorm")),
    )
    kinds = sparse_kinds(config, n_layers(config), dense_first=1)
    return decoder(config, tuple(dense if kind == DENSE else sparse for kind in kinds))
