"""dots.llm1: one norm a head over queries and keys, experts as in DeepSeek-V3."""

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
    windows,
)
from vram_planner.model_profiles.families.qwen3 import qwen3_attention

if TYPE_CHECKING:
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_FULL_LAYERS = 62


def build(config: Config) -> Architecture:
    """Source: transformers models/dots1/modeling_dots1.py."""
    block = qwen3_attention(config, head_dim=None)
    count, first = n_layers(config), config.integer("first_k_dense_replace", default=0, least=0)
    n_shared = config.integer("n_shared_experts", default=0, least=0)
    width = config.integer("moe_intermediate_size") * n_shared
    sparse = experts(
        config,
        count=("n_routed_experts",),
        width=("moe_intermediate_size",),
        correction_bias=True,
        shared=mlp(config, intermediate=width, prefix="shared_experts.") if n_shared else None,
    )
    dense = mlp(config) if first else sparse
    feeds: list[FeedForward] = [dense if index < first else sparse for index in range(count)]
    window = config.optional_integer("sliding_window")
    full = config.integer("max_window_layers", default=_FULL_LAYERS, least=0)
    widths = tuple(window if index >= full else None for index in range(count))
    if config.raw("layer_types") is not None:
        widths = windows(config, count, window=window)
    return decoder(config, stack(block, widths, feeds, norms(block.hidden, *RMS_NORMS)))
