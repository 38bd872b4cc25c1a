"""Aria, the language model: Llama's attention, experts and a shared block of several experts' width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# AriaTextConfig's own defaults.
_DEFAULTS = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "moe_num_experts": 8,
    "moe_topk": 2,
    "moe_num_shared_experts": 2,
}


def build(config: Config, **rest: Any) -> Architecture:
    """Source: transformers models/aria/modeling_aria.py, AriaTextMoELayer; `rest` are Architecture's own fields."""
    config = config.with_defaults(_DEFAULTS)
    bias = config.flag("attention_bias", default=False)
    block = attention(config, qkv_bias=bias, out_bias=bias)
    shared = mlp(
        config,
        intermediate=config.integer("intermediate_size")
        * config.integer("moe_num_shared_experts", most=10**3),
        bias=config.flag("mlp_bias", default=False),
        prefix="shared_experts.",
    )
    feed = experts(config, count=("moe_num_experts",), width=("intermediate_size",), shared=shared)
    layers = stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *RMS_NORMS))
    return decoder(config, layers, **rest)
