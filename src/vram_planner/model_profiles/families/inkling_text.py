"""Inkling: five sliding layers to one full, short convolutions in every layer, relative positions, experts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.attention import FullAttention, SlidingWindow
from vram_planner.architecture.cross import Convolved
from vram_planner.architecture.weight import Role, Weight, linear
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    decoder,
    experts,
    hidden_size,
    mlp,
    n_layers,
    norms,
)
from vram_planner.model_profiles.families.patterns import DENSE, SPARSE, build_layers, layer_kinds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 201_024,
    "hidden_size": 6144,
    "num_hidden_layers": 66,
    "num_experts_per_tok": 6,
    "n_shared_experts": 2,
}
_FULL_LAYER = {"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128}
_NEAR_LAYER = {"swa_num_attention_heads": 64, "swa_num_key_value_heads": 16, "swa_head_dim": 128}
_MLP, _EXPERT, _EXPERTS = 24_576, 3072, 256
_KERNEL, _RELATIVE, _EXTENT, _WINDOW, _EVERY, _CONTEXT = 4, 16, 1024, 512, 6, 131_072
NEAR, FAR = "hybrid_sliding", "hybrid"


def build(config: Config) -> Architecture:
    """Source: transformers models/inkling/modeling_inkling.py, InklingForCausalLM; its head is never tied."""
    config = config.with_defaults(_DEFAULTS)
    hidden, count = hidden_size(config), n_layers(config)
    kinds = _attention_kinds(config, count)
    mixers = {kind: _attention(config, near=kind == NEAR) for kind in set(kinds)}
    first = config.integer("dense_mlp_idx", default=0, least=0)
    usual = [DENSE if index < first else SPARSE for index in range(count)]
    blocks = layer_kinds(config, "mlp_layer_types", count, (DENSE, SPARSE), usual)
    feeds = {kind: _experts(config) if kind == SPARSE else _dense(config) for kind in set(blocks)}
    scale = Weight(name="mlp.global_scale", shape=(1,), role=Role.NORM)
    around = (*norms(hidden, *RMS_NORMS), scale)
    layers = build_layers([mixers[kind] for kind in kinds], [feeds[kind] for kind in blocks], around)
    extras, context = (
        norms(hidden, "embed_norm"),
        config.integer("model_max_length", default=_CONTEXT, most=10**9),
    )
    built = decoder(config, layers, embedding_extras=extras, max_context=context)
    return replace(built, tied_head=False)


def _attention_kinds(config: Config, count: int) -> tuple[str, ...]:
    """Source: InklingTextConfig.__post_init__: `local_layer_ids`, else all but each sixth layer slide."""
    usual_ids = tuple(index for index in range(count) if (index + 1) % _EVERY)
    near = frozenset(config.integers("local_layer_ids", default=usual_ids))
    usual = [NEAR if index in near else FAR for index in range(count)]
    return layer_kinds(config, "layer_types", count, (NEAR, FAR), usual)


def grouped(config: Config, *, near: bool, usual: Mapping[str, int]) -> FullAttention:
    """The attention of a layer: sliding layers have heads of their own, under keys with `swa_`."""
    heads, keys, width = (
        config.integer(
            f"{'swa_' if near else ''}{key}", default=usual[f"{'swa_' if near else ''}{key}"], most=10**5
        )
        for key in ("num_attention_heads", "num_key_value_heads", "head_dim")
    )
    if heads % keys:
        raise ConfigError(
            f"{heads} attention heads are no multiple of {keys} KV heads",
            hint="each KV head serves the same number of query heads: correct the config",
        )
    return FullAttention(hidden=hidden_size(config), n_heads=heads, n_kv_heads=keys, head_dim=width)


def relative(config: Config, inner: FullAttention, *, near: bool, window: int) -> tuple[Weight, ...]:
    """What makes logits of the distance: a projection of each head and one table. Source: InklingRelativeLogits."""
    width = config.integer("d_rel", default=_RELATIVE, most=10**5)
    extent = window if near else config.integer("rel_extent", default=_EXTENT)
    table = Weight(name="rel_logits_proj", shape=(width, extent), role=Role.NORM)
    return (*linear("r_proj", inner.n_heads * width, inner.hidden, units=inner.n_heads), table)


def _attention(config: Config, *, near: bool) -> Convolved:
    bare = grouped(config, near=near, usual=_NEAR_LAYER if near else _FULL_LAYER)
    window = config.integer("sliding_window_size", "sliding_window", default=_WINDOW)
    kernel = config.integer("conv_kernel_size", "sconv_kernel_size", default=_KERNEL, most=10**3)
    keys = bare.n_kv_heads * bare.head_dim
    block = replace(
        bare,
        qk_norm=(bare.head_dim, bare.head_dim),
        extras=relative(config, bare, near=near, window=window),
    )
    return Convolved(
        inner=SlidingWindow(inner=block, window=window) if near else block,
        channels=2 * keys + 2 * bare.hidden,
        kernel=kernel,
        extras=tuple(
            Weight(name=name, shape=(width, 1, kernel), role=Role.NORM, units=units)
            for name, width, units in (
                ("k_sconv", keys, bare.n_kv_heads),
                ("v_sconv", keys, bare.n_kv_heads),
                ("attn_sconv", bare.hidden, 1),
                ("mlp_sconv", bare.hidden, 1),
            )
        ),
    )


def _dense(config: Config) -> FeedForward:
    return mlp(
        config, intermediate=config.integer("dense_intermediate_size", "intermediate_size", default=_MLP)
    )


def _experts(config: Config) -> FeedForward:
    """`dense_intermediate_size` says that `intermediate_size` is the experts' width. The router scores shared experts too."""
    narrow = (
        "intermediate_size" if config.raw("dense_intermediate_size") is not None else "moe_intermediate_size"
    )
    width = config.integer(narrow, default=_EXPERT)
    if config.raw("n_routed_experts", "num_local_experts") is None:
        config = config.with_defaults({"n_routed_experts": _EXPERTS})
    shared = config.integer("n_shared_experts", most=10**4)
    return experts(
        config.with_defaults({narrow: width}),
        count=("n_routed_experts", "num_local_experts"),
        width=(narrow,),
        shared=mlp(config, intermediate=shared * width, prefix="shared_experts."),
        correction_bias=True,
        shared_scores=shared,
    )
