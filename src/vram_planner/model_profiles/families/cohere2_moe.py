"""Command A with experts: Cohere 2's layers, dense ones first where the config asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import (
    attention,
    decoder,
    experts,
    mlp,
    n_layers,
    norms,
    stack,
)
from vram_planner.model_profiles.families.patterns import (
    DENSE,
    FULL,
    SLIDING,
    SPARSE,
    layer_kinds,
)

if TYPE_CHECKING:
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# Cohere2MoeConfig's own defaults.
_DEFAULTS = {
    "vocab_size": 256_000,
    "hidden_size": 8192,
    "intermediate_size": 22_528,
    "num_hidden_layers": 40,
    "num_attention_heads": 64,
    "head_dim": 128,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
    "sliding_window_pattern": 4,
    "prefix_dense_sliding_window_pattern": 1,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/cohere2_moe/modeling_cohere2_moe.py."""
    config = config.with_defaults(_DEFAULTS)
    count, bias = n_layers(config), config.flag("attention_bias", default=False)
    block = attention(config, qkv_bias=bias, out_bias=bias)
    first = min(count, config.integer("first_k_dense_replace", default=0, least=0))
    window = config.integer("sliding_window")
    kinds = layer_kinds(config, "layer_types", count, (SLIDING, FULL), _attention_kinds(config, count, first))
    dense_or_not = layer_kinds(
        config,
        "mlp_layer_types",
        count,
        (DENSE, SPARSE),
        [DENSE if index < first else SPARSE for index in range(count)],
    )
    widths = [window if kind == SLIDING else None for kind in kinds]
    feeds = _feeds(config, dense_or_not)
    return decoder(config, stack(block, widths, feeds, norms(block.hidden, "input_layernorm")), tied=True)


def _attention_kinds(config: Config, count: int, first: int) -> list[str]:
    """The dense layers in front have a pattern of their own; by default they are all full."""
    steps = [config.integer("prefix_dense_sliding_window_pattern")] * first
    steps += [config.integer("sliding_window_pattern")] * (count - first)
    places = [*range(first), *range(count - first)]
    return [SLIDING if (place + 1) % step else FULL for place, step in zip(places, steps, strict=True)]


def _feeds(config: Config, kinds: tuple[str, ...]) -> list[FeedForward]:
    width = config.integer("intermediate_size")
    dense = mlp(config, intermediate=config.optional_integer("prefix_dense_intermediate_size") or width)
    n_shared = config.integer("num_shared_experts", default=0, least=0, most=10**3)
    shared = mlp(config, intermediate=width * n_shared, prefix="shared_experts.") if n_shared else None
    sparse = experts(
        config, count=("num_experts", "num_local_experts"), width=("intermediate_size",), shared=shared
    )
    return [dense if kind == DENSE else sparse for kind in kinds]
