"""Inkling 2: Inkling's layers with gates, sinks, convolutions that depend on the input, and attention over blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.attention import SlidingWindow
from vram_planner.architecture.cross import Convolved
from vram_planner.architecture.model import Layer
from vram_planner.architecture.weight import Role, Weight, linear
from vram_planner.model_profiles.families.common import decoder, experts, hidden_size, n_layers, norms
from vram_planner.model_profiles.families.inkling_text import FAR, NEAR, grouped, relative
from vram_planner.model_profiles.families.patterns import layer_kinds

if TYPE_CHECKING:
    from vram_planner.architecture.attention import FullAttention
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 201_024,
    "hidden_size": 4608,
    "num_hidden_layers": 48,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2304,
}
_FULL_LAYER = {"num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128}
_NEAR_LAYER = {f"swa_{key}": value for key, value in _FULL_LAYER.items()}
_EXPERTS = 384
_KERNEL, _RELATIVE, _WINDOW, _EVERY, _CONTEXT = 4, 16, 1024, 6, 1_048_576


def build(config: Config) -> Architecture:
    """Source: transformers models/inkling2/modeling_inkling2.py, Inkling2ForCausalLM; its head is never tied."""
    config = config.with_defaults(_DEFAULTS)
    if config.raw("n_routed_experts", "num_local_experts") is None:
        config = config.with_defaults({"n_routed_experts": _EXPERTS})
    hidden, count = hidden_size(config), n_layers(config)
    usual = [FAR if (index + 1) % _EVERY == 0 else NEAR for index in range(count)]
    kinds = layer_kinds(config, "layer_types", count, (NEAR, FAR), usual)
    mixers = {kind: _attention(config, near=kind == NEAR) for kind in set(kinds)}
    feed = experts(
        config,
        count=("n_routed_experts", "num_local_experts"),
        width=("moe_intermediate_size", "intermediate_size"),
        correction_bias=True,
    )
    made = {
        (kind, first): Layer(mixer=mixers[kind], feed_forward=feed, norms=_around(hidden, kind, first=first))
        for kind, first in {(kind, index == 0) for index, kind in enumerate(kinds)}
    }
    layers = tuple(made[kind, index == 0] for index, kind in enumerate(kinds))
    built = decoder(
        config,
        layers,
        final_norm=norms(hidden, "norm", "final_input"),
        embedding_extras=norms(hidden, "embed_norm"),
        max_context=config.integer("model_max_length", default=_CONTEXT, most=10**9),
        capped_logits=True,
    )
    return replace(built, tied_head=False)


def _around(hidden: int, kind: str, *, first: bool) -> tuple[Weight, ...]:
    """Norms, and the queries that attend over the outputs of earlier blocks: three in a full layer, none in the first."""
    inputs = (
        ("input_layernorm",)
        if kind == NEAR
        else ("q_input_layernorm", "k_input_layernorm", "v_input_layernorm")
    )
    queries = 0 if first else len(inputs)
    return (
        *norms(hidden, *inputs, "post_attention_layernorm", "mlp_input.query"),
        *norms(hidden, *(f"attention_input.query.{index}" for index in range(queries))),
    )


def _attention(config: Config, *, near: bool) -> Convolved:
    bare = grouped(config, near=near, usual=_NEAR_LAYER if near else _FULL_LAYER)
    window = config.integer("sliding_window_size", "sliding_window", default=_WINDOW)
    kernel = config.integer("conv_kernel_size", "sconv_kernel_size", default=_KERNEL, most=10**3)
    width, heads, keys = bare.head_dim, bare.n_heads, bare.n_kv_heads * bare.head_dim
    scales = (("q_l2_clip", width), ("rel_l2_clip", config.integer("d_rel", default=_RELATIVE, most=10**5)))
    block = replace(
        bare,
        extras=(
            *relative(config, bare, near=near, window=window),
            *linear("gate_proj", heads * width, bare.hidden, units=heads),
            *linear("sink_proj", heads, bare.hidden, units=heads),
            *(Weight(name=name, shape=(heads, size), role=Role.NORM, units=heads) for name, size in scales),
        ),
    )
    return Convolved(
        inner=SlidingWindow(inner=block, window=window) if near else block,
        channels=2 * keys + 2 * bare.hidden,
        kernel=kernel,
        extras=_convolutions(bare, kernel, dynamic=not near),
    )


def _convolutions(bare: FullAttention, kernel: int, *, dynamic: bool) -> tuple[Weight, ...]:
    """In full layers the taps of keys and values depend on the input. Source: Inkling2DynamicShortConvolution."""
    keys, heads, hidden = bare.n_kv_heads * bare.head_dim, bare.n_kv_heads, bare.hidden
    made = [
        *(
            Weight(name=name, shape=(keys, 1, kernel), role=Role.NORM, units=heads)
            for name in ("k_sconv", "v_sconv")
        ),
        *(
            Weight(name=name, shape=(hidden, 1, kernel), role=Role.NORM)
            for name in ("attn_sconv", "mlp_sconv")
        ),
    ]
    if dynamic:
        for name in ("k_sconv.weight_proj", "v_sconv.weight_proj"):
            made += linear(name, heads * kernel, hidden, units=heads)
    return tuple(made)
