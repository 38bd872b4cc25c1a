"""Llama 1 to 3.3 and what follows it: Yi, DeepSeek LLM, the R1 distillations, SmolLM 2, Falcon 3."""

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
    """Source: transformers models/llama/modeling_llama.py, LlamaAttention and LlamaMLP."""
    bias = config.flag("attention_bias", default=False)
    block = attention(config, qkv_bias=bias, out_bias=bias)
    feed = mlp(config, bias=config.flag("mlp_bias", default=False))
    layers = stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *RMS_NORMS))
    return decoder(config, layers)
