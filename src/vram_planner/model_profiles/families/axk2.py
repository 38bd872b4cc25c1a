"""A.X K2: sparse latent attention with a gate on its output, and norms with a small gate of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.model import Layer
from vram_planner.architecture.weight import linear
from vram_planner.model_profiles.families.common import decoder, hidden_size, mlp, n_layers, norms
from vram_planner.model_profiles.families.deepseek_v2 import latent_experts
from vram_planner.model_profiles.families.deepseek_v32 import sparse_latent, with_experts
from vram_planner.model_profiles.families.patterns import DENSE, sparse_kinds

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

# AXK2Config's own defaults.
_DEFAULTS = {
    "vocab_size": 163_840,
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "moe_intermediate_size": 512,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "n_shared_experts": 1,
    "kv_lora_rank": 128,
    "q_lora_rank": 384,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 64,
    "v_head_dim": 64,
    "num_experts_per_tok": 8,
    "max_position_embeddings": 131_072,
    "index_topk": 2048,
    "index_head_dim": 128,
    "index_n_heads": 16,
    "gated_norm_rank": 16,
}
_EXPERTS = 128


def build(config: Config) -> Architecture:
    """Source: transformers models/axk2/modeling_axk2.py, AXK2Attention and AXK2GatedRMSNorm."""
    config = with_experts(config.with_defaults(_DEFAULTS), _EXPERTS)
    hidden, rank = hidden_size(config), config.integer("gated_norm_rank", most=10**5)
    mixer = sparse_latent(config)
    mixer = replace(mixer, inner=replace(mixer.inner, gated_query=True))
    first = gated_norm("input_layernorm", hidden, rank)
    dense = Layer(
        mixer=mixer, feed_forward=mlp(config), norms=(*first, *norms(hidden, "post_attention_layernorm"))
    )
    sparse = Layer(
        mixer=mixer,
        feed_forward=latent_experts(config, correction_bias=True),
        norms=(*first, *gated_norm("post_attention_layernorm", hidden, rank)),
    )
    kinds = sparse_kinds(config, n_layers(config), dense_first=1)
    return decoder(config, tuple(dense if kind == DENSE else sparse for kind in kinds))


def gated_norm(name: str, hidden: int, rank: int) -> tuple[Weight, ...]:
    """A norm and the low-rank gate on it."""
    return (
        *norms(hidden, f"{name}.norm"),
        *linear(f"{name}.mlp.fc1", rank, hidden),
        *linear(f"{name}.mlp.fc2", hidden, rank),
    )
