"""Laguna: a gate on each head's output, a number of heads for each layer, experts with a shared one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.weight import linear
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    experts,
    mlp,
    n_layers,
    norms,
    with_window,
)
from vram_planner.model_profiles.families.patterns import (
    DENSE,
    FULL,
    SLIDING,
    SPARSE,
    build_layers,
    layer_kinds,
)

if TYPE_CHECKING:
    from vram_planner.architecture.attention import FullAttention
    from vram_planner.architecture.feed_forward import MixtureOfExperts
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 100_352,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 40,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "num_experts": 256,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "max_position_embeddings": 131_072,
}
_HEAD_DIM = 128
_TOP_K = 8
_WINDOW = 512


def build(config: Config) -> Architecture:
    """Source: transformers models/laguna/modeling_laguna.py; the bias that balances its router is a parameter."""
    config = config.with_defaults(_DEFAULTS)
    count, window = n_layers(config), config.integer("sliding_window", default=_WINDOW)
    kinds = layer_kinds(config, "layer_types", count, (FULL, SLIDING), [FULL] * count)
    heads = _heads(config, count)
    blocks = {n_heads: gated_attention(config, n_heads, head_dim=_HEAD_DIM) for n_heads in set(heads)}
    mixers = {
        (kind, n_heads): with_window(blocks[n_heads], window if kind == SLIDING else None)
        for kind, n_heads in set(zip(kinds, heads, strict=True))
    }
    usual = [DENSE, *[SPARSE] * (count - 1)]
    sparse, dense = _experts(config), mlp(config)
    feeds = [
        sparse if kind == SPARSE else dense
        for kind in layer_kinds(config, "mlp_layer_types", count, (DENSE, SPARSE), usual)
    ]
    chosen = [mixers[pair] for pair in zip(kinds, heads, strict=True)]
    return decoder(config, build_layers(chosen, feeds, norms(sparse.hidden, *RMS_NORMS)))


def gated_attention(config: Config, n_heads: int, *, head_dim: int) -> FullAttention:
    """
    Grouped-query attention of `n_heads` with norms over each head, and a gate a head or an element (`gating`).

    Source: LagunaAttention and Step3p7Attention.
    """
    bias = config.flag("attention_bias", default=False)
    bare = attention(config, head_dim=head_dim)
    if n_heads % bare.n_kv_heads:
        raise ConfigError(
            f"{n_heads} attention heads are no multiple of {bare.n_kv_heads} KV heads",
            hint="each KV head serves the same number of query heads: correct the config",
        )
    per_head = config.raw("gating") in (None, True, "per-head")
    rows = n_heads * (1 if per_head else bare.head_dim)
    return replace(
        bare,
        n_heads=n_heads,
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=(bare.head_dim, bare.head_dim),
        extras=linear("g_proj", rows, bare.hidden, units=n_heads),
    )


def _heads(config: Config, count: int) -> tuple[int, ...]:
    usual = (config.integer("num_attention_heads", most=10**5),) * count
    heads = config.integers("num_attention_heads_per_layer", default=usual)
    if len(heads) != count or not all(heads):
        raise ConfigError(
            f"{config.where}num_attention_heads_per_layer does not give {count} numbers above 0",
            hint="give one entry for each of num_hidden_layers",
        )
    return heads


def _experts(config: Config) -> MixtureOfExperts:
    width = config.integer("shared_expert_intermediate_size")
    return experts(
        config,
        count=("num_experts",),
        width=("moe_intermediate_size",),
        top_k=_TOP_K,
        router_bias=True,
        shared=mlp(config, intermediate=width, prefix="shared_experts."),
    )
