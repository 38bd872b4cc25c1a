"""DeepSeek-MoE 16B: grouped-query attention, fine-grained experts beside shared ones."""

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

if TYPE_CHECKING:
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture, Layer
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """Source: deepseek-ai/deepseek-moe-16b-base modeling_deepseek.py; read as in vLLM's models/deepseek_v2.py."""
    return decoder(config, attention_layers(config))


def attention_layers(config: Config) -> tuple[Layer, ...]:
    """Dense layers first, then layers of experts; without routed experts all are dense."""
    bias, count = config.flag("attention_bias", default=False), n_layers(config)
    block = attention(config, qkv_bias=bias, out_bias=bias)
    first = config.integer("first_k_dense_replace", default=0, least=0)
    step = config.integer("moe_layer_freq", default=1)
    has_experts = config.raw("n_routed_experts") is not None
    kinds = [has_experts and index >= first and index % step == 0 for index in range(count)]
    dense = None if all(kinds) else mlp(config)
    sparse = _experts(config) if any(kinds) else None
    feeds = [feed for kind in kinds if (feed := sparse if kind else dense) is not None]
    return stack(block, (None,) * count, feeds, norms(block.hidden, *RMS_NORMS))


def _experts(config: Config) -> FeedForward:
    width = config.integer("moe_intermediate_size")
    n_shared = config.integer("n_shared_experts", default=0, least=0)
    return experts(
        config,
        count=("n_routed_experts",),
        width=("moe_intermediate_size",),
        shared=mlp(config, intermediate=width * n_shared, prefix="shared_experts.") if n_shared else None,
    )
