"""Granite 3 with experts: Mixtral's layers, with biases where the config has them."""

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
    from collections.abc import Sequence

    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_local_experts": 8,
    "max_position_embeddings": 2048,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/granitemoe/modeling_granitemoe.py."""
    return granite_experts(config)


def granite_experts(
    config: Config, *, shared: bool = False, sinks: bool = False, sliding: Sequence[int | None] = ()
) -> Architecture:
    """
    Granite's decoder of experts.

    `shared` where the family reads `shared_intermediate_size` (0: no shared expert), `sliding` the window of
    each layer. Sources: transformers models/granitemoeshared/modeling_granitemoeshared.py and models/granitemoe_swa.
    """
    config = config.with_defaults(_DEFAULTS)
    bias = config.flag("attention_bias", default=False)
    block = attention(config, qkv_bias=bias, out_bias=bias, sinks=sinks)
    width = config.integer("shared_intermediate_size", default=0, least=0) if shared else 0
    feed = experts(
        config,
        count=("num_local_experts",),
        width=("intermediate_size",),
        top_k=2,
        shared=mlp(config, intermediate=width, fused=True, prefix="shared_mlp.") if width else None,
    )
    widths = sliding or (None,) * n_layers(config)
    return decoder(config, stack(block, widths, feed, norms(block.hidden, *RMS_NORMS)))
