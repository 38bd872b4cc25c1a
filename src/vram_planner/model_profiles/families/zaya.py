"""Zaya: attention over convolved queries and keys, a single expert a token, chosen by a small network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture.side_by_side import ConvolvedAttention
from vram_planner.architecture.weight import Role, Weight, linear, norm
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    experts,
    hidden_size,
    n_layers,
    norms,
)
from vram_planner.model_profiles.families.hybrid import Parts, assemble, kinds

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_KINDS: Final = ("hybrid", "hybrid_sliding")
_DEFAULTS: Final = {
    "vocab_size": 262_272,
    "hidden_size": 2048,
    "num_hidden_layers": 40,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
    "moe_intermediate_size": 2048,
    "num_experts_per_tok": 1,
    "num_experts": 16,
}
_SCALES: Final = ("hidden_states_scale", "hidden_states_bias", "residual_scale", "residual_bias")


def build(config: Config) -> Architecture:
    """Source: transformers models/zaya/modeling_zaya.py, ZayaDecoderLayer."""
    config = config.with_defaults(_DEFAULTS)
    hidden, count = hidden_size(config), n_layers(config)
    mixers = {
        "hybrid": _attention(config, window=None),
        "hybrid_sliding": _attention(config, window=config.optional_integer("sliding_window")),
    }
    found = kinds(config, count, _KINDS, ("hybrid",) * count, keys=("layer_types",))
    around = norms(hidden, *RMS_NORMS) + norms(hidden, *_SCALES) * 2
    first, later = (
        experts(
            config,
            count=("num_experts",),
            width=("moe_intermediate_size",),
            own_router=_router(config, remembers=remembers),
        )
        for remembers in (False, True)
    )
    rows = (Parts(mixers[kind], later if index else first, around) for index, kind in enumerate(found))
    scales = norms(hidden, "input_hidden_states_scale", "input_hidden_states_bias")
    return decoder(
        config,
        assemble(rows),
        tied=True,
        head_bias=config.flag("lm_head_bias", default=False),
        embedding_extras=scales,
    )


def _attention(config: Config, *, window: int | None) -> ConvolvedAttention:
    plain = attention(config)
    return ConvolvedAttention(
        hidden=plain.hidden,
        n_heads=plain.n_heads,
        n_kv_heads=plain.n_kv_heads,
        head_dim=plain.head_dim,
        depthwise=config.integer("cca_time0", default=2, most=1000),
        grouped=config.integer("cca_time1", default=2, most=1000),
        bias=config.flag("attention_bias", default=False),
        window=window,
    )


def _router(config: Config, *, remembers: bool) -> tuple[Weight, ...]:
    """A network that also looks at the router of the layer before; one class more than experts skips them all."""
    hidden, width = hidden_size(config), config.integer("router_hidden_size", default=256, most=10**6)
    classes = config.integer("num_experts", most=10**5) + 1
    memory = (Weight(name="gate.router_states_scale", shape=(width,), role=Role.NORM),) if remembers else ()
    return (
        *memory,
        *linear("gate.down_proj", width, hidden, bias=True, role=Role.ROUTER),
        *norm("gate.router_mlp.norm", width),
        *linear("gate.router_mlp.fc1", width, width, bias=True, role=Role.ROUTER),
        *linear("gate.router_mlp.fc2", width, width, bias=True, role=Role.ROUTER),
        *linear("gate.router_mlp.out_proj", classes, width, role=Role.ROUTER),
        Weight(name="gate.balancing_biases", shape=(classes,), role=Role.BUFFER),
    )
