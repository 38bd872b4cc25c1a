"""Qwen 1.5 MoE and Qwen 2 57B-A14B: routed experts and one shared expert behind a sigmoid gate."""

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
    windows,
)

if TYPE_CHECKING:
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_WINDOW = 4096
_WINDOW_LAYERS = 28


def build(config: Config) -> Architecture:
    """Source: transformers models/qwen2_moe/modeling_qwen2_moe.py."""
    block = attention(config, qkv_bias=config.flag("qkv_bias", default=True))
    shared = mlp(
        config, intermediate=config.integer("shared_expert_intermediate_size"), prefix="shared_expert."
    )
    sparse = experts(
        config,
        count=("num_experts",),
        width=("moe_intermediate_size",),
        top_k=4,
        shared=shared,
        shared_gate=True,
    )
    layers = stack(block, _windows(config), sparse_or_dense(config, sparse), norms(block.hidden, *RMS_NORMS))
    return decoder(config, layers)


def sparse_or_dense(config: Config, sparse: FeedForward) -> list[FeedForward]:
    """
    The feed-forward block of each layer.

    Experts in each `decoder_sparse_step`-th layer that `mlp_only_layers` does not name. Source: Qwen2MoeDecoderLayer.
    """
    step = config.integer("decoder_sparse_step", default=1)
    dense_only = frozenset(config.integers("mlp_only_layers", default=()))
    kinds = [index not in dense_only and (index + 1) % step == 0 for index in range(n_layers(config))]
    dense = sparse if all(kinds) else mlp(config)
    return [sparse if kind else dense for kind in kinds]


def _windows(config: Config) -> tuple[int | None, ...]:
    """As Qwen2MoeConfig: with `use_sliding_window`, every second of the first `max_window_layers`."""
    count = n_layers(config)
    window = None
    if config.flag("use_sliding_window", default=False):
        window = config.integer("sliding_window", default=_WINDOW)
    if config.raw("layer_types") is not None:
        return windows(config, count, window=window)
    last = config.integer("max_window_layers", default=_WINDOW_LAYERS, least=0)
    return tuple(window if index % 2 == 0 and index < last else None for index in range(count))
