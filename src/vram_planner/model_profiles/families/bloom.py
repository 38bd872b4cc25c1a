"""BLOOM: positions as slopes, a norm on the embedding, a tied head."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def build(config: Config) -> Architecture:
    """Source: transformers models/bloom/modeling_bloom.py."""
    block = attention(config, qkv_bias=True, out_bias=True, fused_qkv=True)
    feed = mlp(config, intermediate=4 * block.hidden, gated=False, bias=True)
    layers = stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *RMS_NORMS, bias=True))
    return decoder(
        config,
        layers,
        tied=True,
        final_norm=norms(block.hidden, "ln_f", bias=True),
        embedding_extras=norms(block.hidden, "word_embeddings_layernorm", bias=True),
        max_context=config.optional_integer("seq_length"),
    )
