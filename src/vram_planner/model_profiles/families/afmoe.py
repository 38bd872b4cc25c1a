"""Trinity (Arcee AFMoE): gated attention, norms around the blocks, a bias of the router that is a parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.weight import linear
from vram_planner.model_profiles.families.common import (
    attention,
    decoder,
    experts,
    mlp,
    n_layers,
    norms,
    stack,
    windows,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm")
# AfmoeConfig's own defaults.
_DEFAULTS = {
    "vocab_size": 200_192,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 1408,
    "num_hidden_layers": 32,
    "num_dense_layers": 1,
    "num_attention_heads": 16,
    "head_dim": 128,
    "max_position_embeddings": 16_384,
    "num_experts": 64,
    "num_experts_per_tok": 6,
    "num_shared_experts": 2,
    "global_attn_every_n_layers": 4,
    "sliding_window": 1024,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/afmoe/modeling_afmoe.py, AfmoeAttention and AfmoeSparseMoeBlock."""
    config = config.with_defaults(_DEFAULTS)
    count, bias = n_layers(config), config.flag("attention_bias", default=False)
    width = config.integer("head_dim", most=10**5)
    bare = attention(config)
    gate = linear("gate_proj", bare.n_heads * width, bare.hidden, units=bare.n_heads)
    block = attention(config, qkv_bias=bias, out_bias=bias, qk_norm=(width, width), extras=gate)
    shared = config.integer("moe_intermediate_size") * config.integer("num_shared_experts", most=10**3)
    sparse = experts(
        config,
        count=("num_experts", "num_local_experts"),
        width=("moe_intermediate_size",),
        router_bias=True,
        shared=mlp(config, intermediate=shared, prefix="shared_experts."),
    )
    dense, first = mlp(config), config.integer("num_dense_layers", least=0)
    widths = windows(
        config,
        count,
        window=config.integer("sliding_window"),
        every=config.integer("global_attn_every_n_layers"),
    )
    feeds = [dense if index < first else sparse for index in range(count)]
    return decoder(config, stack(block, widths, feeds, norms(block.hidden, *_NORMS)))
