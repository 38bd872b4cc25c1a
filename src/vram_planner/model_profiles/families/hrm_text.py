"""HRM-Text: two stacks of layers that run several times for each token, each run with a cache of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.feed_forward import NoFeedForward
from vram_planner.architecture.model import Layer
from vram_planner.architecture.passes import Rerun
from vram_planner.architecture.weight import Role, Weight, linear
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 151_808,
    "hidden_size": 1536,
    "intermediate_size": 4096,
    "num_hidden_layers": 16,
    "num_attention_heads": 12,
    "head_dim": 128,
    "max_position_embeddings": 2048,
}
_STACKS = 2


def build(config: Config) -> Architecture:
    """
    Source: transformers models/hrm_text/modeling_hrm_text.py; defaults of HrmTextConfig.

    `num_hidden_layers` is the number of layers in a stack, or, beside `num_layers_per_stack`, the number of
    all runs: layers · H_cycles · (L_cycles + 1). Norms have no parameters.
    """
    own = config.with_defaults(_DEFAULTS)
    bias = own.flag("attention_bias", default=False)
    bare = attention(own)
    gate = linear("gate_proj", bare.n_heads * bare.head_dim, bare.hidden, units=bare.n_heads, bias=bias)
    # As many KV heads as query heads, whatever the config says of them.
    block = replace(bare, n_kv_heads=bare.n_heads, qkv_bias=bias, out_bias=bias, extras=gate)
    layer = Layer(mixer=block, feed_forward=mlp(own, bias=own.flag("mlp_bias", default=False)), norms=())
    again = Layer(
        mixer=Rerun(inner=block, parameters=layer.parameters), feed_forward=NoFeedForward(), norms=()
    )
    depth, runs = _runs(own)
    start = Weight(name="z_L_init", shape=(block.hidden,), role=Role.NORM)
    layers = (layer,) * (_STACKS * depth) + (again,) * (runs - _STACKS * depth)
    return decoder(own, layers, final_norm=(), embedding_extras=(start,))


def _runs(config: Config) -> tuple[int, int]:
    """Layers in a stack, and how often a layer runs in all."""
    cycles = config.integer("H_cycles", default=2, most=1000)
    cycles *= config.integer("L_cycles", default=3, most=1000) + 1
    depth = config.optional_integer("num_layers_per_stack") or n_layers(config)
    runs = depth * cycles
    if runs > 10_000:  # noqa: PLR2004  the bound of num_hidden_layers
        raise ConfigError(f"{runs:,} runs of a layer for each token", hint="correct 'H_cycles' or 'L_cycles'")
    return depth, runs
