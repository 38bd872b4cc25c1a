"""Mellum 2: experts or dense blocks, sliding or full layers, each by a list in the config."""

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
    unless_null,
)
from vram_planner.model_profiles.families.patterns import DENSE, FULL, SLIDING, SPARSE, layer_kinds
from vram_planner.model_profiles.families.qwen3 import qwen3_attention

if TYPE_CHECKING:
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 98_304,
    "hidden_size": 2304,
    "intermediate_size": 7168,
    "num_hidden_layers": 28,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 896,
    "max_position_embeddings": 131_072,
}
_HEAD_DIM = 128
_EXPERTS, _TOP_K = 64, 8
_WINDOW = 1024


def build(config: Config) -> Architecture:
    """Source: transformers models/mellum/modeling_mellum.py; defaults of MellumConfig: full layers with experts."""
    config = config.with_defaults(_DEFAULTS)
    if config.raw("num_experts", "num_local_experts") is None:
        config = config.with_defaults({"num_experts": _EXPERTS})
    block, count = qwen3_attention(config, head_dim=_HEAD_DIM), n_layers(config)
    window = config.optional_integer("sliding_window") or unless_null(config, "sliding_window", _WINDOW)
    kinds = layer_kinds(config, "layer_types", count, (FULL, SLIDING), [FULL] * count)
    widths = tuple(window if kind == SLIDING else None for kind in kinds)
    sparse = experts(
        config, count=("num_experts", "num_local_experts"), width=("moe_intermediate_size",), top_k=_TOP_K
    )
    dense = mlp(config)
    blocks = layer_kinds(config, "mlp_layer_types", count, (DENSE, SPARSE), [SPARSE] * count)
    feeds: list[FeedForward] = [sparse if kind == SPARSE else dense for kind in blocks]
    return decoder(config, stack(block, widths, feeds, norms(block.hidden, *RMS_NORMS)))
