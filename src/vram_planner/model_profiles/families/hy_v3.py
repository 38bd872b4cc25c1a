"""Hy 3: a dense layer, then experts with a shared one; norms over each head of queries and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    decoder,
    experts,
    mlp,
    n_layers,
    norms,
    stack,
)
from vram_planner.model_profiles.families.patterns import DENSE, SPARSE, layer_kinds
from vram_planner.model_profiles.families.qwen3 import qwen3_attention

if TYPE_CHECKING:
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 120_832,
    "hidden_size": 4096,
    "intermediate_size": 13_312,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "moe_intermediate_size": 1536,
    "num_experts_per_tok": 8,
    "max_position_embeddings": 131_072,
}
_HEAD_DIM = 128
_EXPERTS = 192


def build(config: Config) -> Architecture:
    """Source: transformers models/hy_v3/modeling_hy_v3.py."""
    config = config.with_defaults(_DEFAULTS)
    if config.raw("num_experts", "num_local_experts") is None:
        config = config.with_defaults({"num_experts": _EXPERTS})
    block, count = qwen3_attention(config, head_dim=_HEAD_DIM), n_layers(config)
    bias = config.flag("mlp_bias", default=False)
    shared = config.integer("moe_intermediate_size") * config.integer("num_shared_experts", default=1)
    usual = [DENSE, *[SPARSE] * (count - 1)]
    kinds = layer_kinds(config, "mlp_layer_types", count, (DENSE, SPARSE), usual)
    sparse = experts(
        config,
        count=("num_experts", "num_local_experts"),
        width=("moe_intermediate_size",),
        correction_bias=True,
        shared=mlp(config, intermediate=shared, bias=bias, prefix="shared_experts."),
    )
    dense = mlp(config, bias=bias)
    feeds: list[FeedForward] = [sparse if kind == SPARSE else dense for kind in kinds]
    return decoder(config, stack(block, (None,) * count, feeds, norms(block.hidden, *RMS_NORMS)))
