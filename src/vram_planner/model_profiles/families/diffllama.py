"""DiffLlama: Llama whose heads come in pairs that are subtracted, with four learned vectors a layer."""

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

_LAMBDAS = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
# DiffLlamaConfig's own defaults.
_DEFAULTS = {
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/diffllama/modeling_diffllama.py, DiffLlamaAttention."""
    config = config.with_defaults(_DEFAULTS)
    bias = config.flag("attention_bias", default=False)
    width = attention(config).head_dim
    block = attention(config, qkv_bias=bias, out_bias=bias, extras=norms(width, *_LAMBDAS))
    layers = stack(block, (None,) * n_layers(config), mlp(config), norms(block.hidden, *RMS_NORMS))
    return decoder(config, layers)
