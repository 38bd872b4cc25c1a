"""Flint: sinks, one norm a head over queries and keys, windows, experts beside a shared block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    experts,
    mlp,
    n_layers,
    norms,
    stack,
)
from vram_planner.model_profiles.families.patterns import FULL, SLIDING, layer_kinds
from vram_planner.model_profiles.families.qwen2_moe import sparse_or_dense

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# FlintConfig's own defaults.
_DEFAULTS = {
    "vocab_size": 150_144,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 49,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "max_position_embeddings": 262_144,
    "sliding_window": 513,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 1024,
    "num_experts": 256,
    "num_experts_per_tok": 6,
    "mlp_only_layers": [0, 1],
}


def build(config: Config) -> Architecture:
    """Source: transformers models/flint/modeling_flint.py, FlintAttention and FlintSparseMoeBlock."""
    config = config.with_defaults(_DEFAULTS)
    count, bias = n_layers(config), config.flag("attention_bias", default=False)
    width = config.integer("head_dim", most=10**5)
    block = attention(config, qkv_bias=bias, out_bias=bias, qk_norm=(width, width), sinks=True)
    shared = mlp(
        config, intermediate=config.integer("shared_expert_intermediate_size"), prefix="shared_expert."
    )
    sparse = experts(
        config, count=("num_experts", "num_local_experts"), width=("moe_intermediate_size",), shared=shared
    )
    default = [
        FULL if index < 2 or index % 4 == 1 or index == count - 1 else SLIDING  # noqa: PLR2004  the first two
        for index in range(count)
    ]
    window = config.integer("sliding_window")
    kinds = layer_kinds(config, "layer_types", count, (SLIDING, FULL), default)
    widths = [window if kind == SLIDING else None for kind in kinds]
    layers = stack(block, widths, sparse_or_dense(config, sparse), norms(block.hidden, *RMS_NORMS))
    return decoder(config, layers)
