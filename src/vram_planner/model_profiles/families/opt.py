"""OPT: learned positions, a tied head, biases everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, Weight
from vram_planner.errors import UnsupportedArchitectureError
from vram_planner.model_profiles.families.common import (
    attention,
    decoder,
    mlp,
    n_layers,
    norms,
    stack,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_POSITIONS = 2048


def build(config: Config) -> Architecture:
    """Source: transformers models/opt/modeling_opt.py; its table of positions has two rows more than it needs."""
    block = attention(config, qkv_bias=True, out_bias=True)
    if config.integer("word_embed_proj_dim", default=block.hidden) != block.hidden:
        raise UnsupportedArchitectureError(
            "an OPT whose embedding is narrower than its layers is not supported",
            hint="take one whose word_embed_proj_dim equals hidden_size: all but opt-350m",
        )
    feed = mlp(config, intermediate=config.integer("ffn_dim"), gated=False, bias=True)
    names = ("self_attn_layer_norm", "final_layer_norm")
    layers = stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *names, bias=True))
    rows = config.integer("max_position_embeddings", default=_POSITIONS) + 2
    positions = Weight(name="positions", shape=(rows, block.hidden), role=Role.NORM)
    before = config.flag("do_layer_norm_before", default=True)
    final = norms(block.hidden, "final_layer_norm", bias=True) if before else ()
    return decoder(
        config, layers, tied=True, final_norm=final, embedding_extras=(positions,), max_context=_POSITIONS
    )
