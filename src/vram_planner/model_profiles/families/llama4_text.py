"""Llama 4 Scout and Maverick: three layers that see chunks to one that sees all, experts with a shared one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.architecture.cross import ChunkedAttention
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    experts,
    mlp,
    n_layers,
    norms,
    unless_null,
)
from vram_planner.model_profiles.families.patterns import FULL, build_layers, layer_kinds

if TYPE_CHECKING:
    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 202_048,
    "hidden_size": 5120,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16_384,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_local_experts": 16,
    "max_position_embeddings": 131_072,
}
_KV_HEADS, _HEAD_DIM = 8, 128
_CHUNK, _EVERY = 8192, 4
_CHUNKED = "chunked_attention"


def build(config: Config, **rest: Any) -> Architecture:
    """
    Source: transformers models/llama4/modeling_llama4.py; its norm of queries and keys has no scale.

    `rest` are Architecture's own fields (the vision tower).
    """
    config = config.with_defaults(_DEFAULTS)
    bias, count = config.flag("attention_bias", default=False), n_layers(config)
    block = attention(
        config,
        head_dim=unless_null(config, "head_dim", _HEAD_DIM),
        kv_heads=unless_null(config, "num_key_value_heads", _KV_HEADS),
        qkv_bias=bias,
        out_bias=bias,
    )
    chunk = config.optional_integer("attention_chunk_size") or unless_null(
        config, "attention_chunk_size", _CHUNK
    )
    near: Mixer = block if chunk is None else ChunkedAttention(inner=block, chunk=chunk)
    mixers = [near if kind == _CHUNKED else block for kind in _kinds(config, count)]
    return decoder(
        config, build_layers(mixers, _feeds(config, count), norms(block.hidden, *RMS_NORMS)), **rest
    )


def _kinds(config: Config, count: int) -> tuple[str, ...]:
    """
    "chunked_attention" or "full_attention" for each layer.

    By `layer_types`, else by `no_rope_layers` (1: positions and chunks), else each `no_rope_layer_interval`-th
    layer is full. Source: Llama4TextConfig.__post_init__.
    """
    every = config.integer("no_rope_layer_interval", default=_EVERY)
    rotated = config.integers("no_rope_layers", default=()) or tuple(
        int((index + 1) % every != 0) for index in range(count)
    )
    usual = [_CHUNKED if turned else FULL for turned in rotated]
    return layer_kinds(config, "layer_types", count, (_CHUNKED, FULL), usual)


def _feeds(config: Config, count: int) -> list[FeedForward]:
    """Experts in the layers that `moe_layers` names, else in each `interleave_moe_layer_step`-th."""
    step = config.integer("interleave_moe_layer_step", default=1)
    sparse_layers = frozenset(config.integers("moe_layers", default=tuple(range(step - 1, count, step))))
    sparse = experts(
        config,
        count=("num_local_experts",),
        width=("intermediate_size",),
        top_k=1,
        shared=mlp(config, prefix="shared_expert."),
    )
    dense = mlp(config, intermediate=config.integer("intermediate_size_mlp"))
    return [sparse if index in sparse_layers else dense for index in range(count)]
