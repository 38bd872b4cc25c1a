"""ERNIE 4.5 with experts (21B-A3B, 300B-A47B)."""

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
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_KV_HEADS = 4


def build(config: Config) -> Architecture:
    """
    Source: transformers models/ernie4_5_moe/modeling_ernie4_5_moe.py.

    The bias that balances its router is a parameter there, not a buffer.
    """
    bias, count = config.flag("use_bias", default=False), n_layers(config)
    block = attention(config, kv_heads=_KV_HEADS, qkv_bias=bias, out_bias=bias)
    width, n_shared = (
        config.integer("moe_intermediate_size"),
        config.integer("moe_num_shared_experts", default=2, least=0),
    )
    sparse = experts(
        config,
        count=("moe_num_experts",),
        width=("moe_intermediate_size",),
        top_k=config.integer("moe_k", default=6),
        router_bias=True,
        shared=mlp(config, intermediate=width * n_shared, bias=bias, prefix="shared_experts.")
        if n_shared
        else None,
    )
    first = config.integer("moe_layer_start_index", default=1, least=0)
    last = config.integer("moe_layer_end_index", default=-1, least=-1)
    step = config.integer("moe_layer_interval", default=1)
    last = count - 1 if last < 0 else last
    dense = mlp(config, bias=bias)
    feeds: list[FeedForward] = [
        sparse if (index + 1) % step == 0 and first <= index <= last else dense for index in range(count)
    ]
    layers = stack(block, (None,) * count, feeds, norms(block.hidden, *RMS_NORMS))
    return decoder(config, layers, tied=True, head_bias=bias)
