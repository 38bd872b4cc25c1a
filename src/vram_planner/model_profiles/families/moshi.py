"""Moshi's text decoder: one window for all layers, gated MLP in one matrix, a row of its own for the start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, Weight
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
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

_DEFAULTS = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "ffn_dim": 22_528,
    "vocab_size": 32_000,
    "max_position_embeddings": 3000,
    "sliding_window": 3000,
}
_NOTE = "the text decoder alone: Moshi's depth decoder and its audio codec are not counted"


def build(config: Config) -> Architecture:
    """
    Source: transformers models/moshi/modeling_moshi.py, MoshiForCausalLM; defaults of MoshiConfig.

    `ffn_dim` counts both halves of the gated MLP.
    """
    own = config.with_defaults(_DEFAULTS)
    block = attention(own)
    feed = mlp(own, intermediate=own.integer("ffn_dim", least=2) // 2, fused=True)
    widths = (own.integer("sliding_window"),) * n_layers(own)
    layers = stack(block, widths, feed, norms(block.hidden, *RMS_NORMS))
    start = Weight(name="start_token", shape=(1, block.hidden), role=Role.EMBEDDING)
    return decoder(own, layers, embedding_extras=(start,), notes=(_NOTE,))
