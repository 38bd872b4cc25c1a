"""Beam: gated attention with norms on q and k, five sliding layers to one full, grouped experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, Weight, linear
from vram_planner.model_profiles.families.common import (
    SANDWICH_NORMS,
    attention,
    decoder,
    experts,
    mlp,
    n_layers,
    norms,
    stack,
    windows,
)
from vram_planner.model_profiles.families.patterns import DENSE, SPARSE, layer_kinds

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 151_936,
    "hidden_size": 5120,
    "intermediate_size": 20_480,
    "num_hidden_layers": 52,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 8192,
    "sliding_window": 512,
    "moe_intermediate_size": 2560,
    "num_experts": 256,
}
_EVERY = 6
_DENSE_FIRST = 3
_CAP = 30.0


def build(config: Config) -> Architecture:
    """Source: transformers models/beam/modeling_beam.py; defaults of BeamConfig."""
    own = config.with_defaults(_DEFAULTS)
    bias, count = own.flag("attention_bias", default=False), n_layers(own)
    bare = attention(own)
    gate = (
        *linear("gate_proj", bare.n_heads * bare.head_dim, bare.hidden, units=bare.n_heads),
        Weight(name="gate_bias", shape=(bare.n_heads,), role=Role.BIAS, units=bare.n_heads),
    )
    block = attention(own, qkv_bias=bias, out_bias=bias, qk_norm=(bare.head_dim, bare.head_dim), extras=gate)
    usual = [DENSE if index < _DENSE_FIRST else SPARSE for index in range(count)]
    kinds = layer_kinds(own, "mlp_layer_types", count, (DENSE, SPARSE), usual)
    dense = mlp(own)
    sparse = experts(
        own, count=("num_experts",), width=("moe_intermediate_size",), top_k=8, correction_bias=True
    )
    feeds = [dense if kind == DENSE else sparse for kind in kinds]
    widths = windows(own, count, window=own.integer("sliding_window"), every=_EVERY)
    if own.raw("layer_types") is None:
        widths = (*widths[:-1], None)
    layers = stack(block, widths, feeds, norms(block.hidden, *SANDWICH_NORMS))
    capped = own.raw("final_logit_softcapping") is not None or not own.has("final_logit_softcapping")
    return decoder(own, layers, capped_logits=capped)
