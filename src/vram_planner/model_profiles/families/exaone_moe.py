"""K-EXAONE: EXAONE 4's attention, norms before the blocks, DeepSeek-V3's kind of experts."""

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
from vram_planner.model_profiles.families.patterns import (
    DENSE,
    FULL,
    SLIDING,
    layer_kinds,
    sparse_kinds,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_EVERY = 4
# ExaoneMoeConfig's own defaults.
_DEFAULTS = {
    "vocab_size": 102_400,
    "hidden_size": 4096,
    "intermediate_size": 16_384,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 2048,
    "moe_intermediate_size": 1024,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "num_shared_experts": 1,
}
_WINDOW = 4096


def build(config: Config) -> Architecture:
    """Source: transformers models/exaone_moe/modeling_exaone_moe.py."""
    config = config.with_defaults(_DEFAULTS)
    if not config.has("sliding_window"):  # null means none
        config = config.with_defaults({"sliding_window": _WINDOW})
    count, width = n_layers(config), attention(config).head_dim
    block = attention(config, qk_norm=(width, width))
    shared = config.integer("moe_intermediate_size") * config.integer("num_shared_experts", most=10**3)
    sparse = experts(
        config,
        count=("num_experts",),
        width=("moe_intermediate_size",),
        correction_bias=True,
        shared=mlp(config, intermediate=shared, prefix="shared_experts."),
    )
    dense = mlp(config)
    feeds = [dense if kind == DENSE else sparse for kind in sparse_kinds(config, count, dense_first=1)]
    window = config.optional_integer("sliding_window")
    kinds = layer_kinds(config, "layer_types", count, (SLIDING, FULL), _pattern(config, count, window))
    widths = tuple(window if kind == SLIDING else None for kind in kinds)
    return decoder(config, stack(block, widths, feeds, norms(block.hidden, *RMS_NORMS)))


def _pattern(config: Config, count: int, window: int | None) -> Sequence[str]:
    """Every fourth layer is full; `sliding_window_pattern` is their distance, or 'LLLG'."""
    pattern = config.raw("sliding_window_pattern")
    if window is None:
        return (FULL,) * count
    if isinstance(pattern, str) and pattern:
        return [SLIDING if pattern[index % len(pattern)] == "L" else FULL for index in range(count)]
    every = config.integer("sliding_window_pattern", default=_EVERY)
    return [SLIDING if (index + 1) % every else FULL for index in range(count)]
