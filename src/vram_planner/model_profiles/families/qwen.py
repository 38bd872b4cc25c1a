"""Qwen 1.8B to 72B of 2023: one matrix for q, k and v, with a bias; the size of the MLP counts both halves."""

from __future__ import annotations

from dataclasses import replace
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
    """Source: QwenLM/Qwen modeling_qwen.py; read as in vLLM 0.22 model_executor/models/qwen.py (0.23 dropped it)."""
    bias = not config.flag("no_bias", default=True)
    block = attention(
        config,
        head_dim=config.optional_integer("kv_channels"),
        qkv_bias=True,
        out_bias=bias,
        fused_qkv=True,
    )
    feed = mlp(config, intermediate=config.integer("intermediate_size", least=2) // 2, bias=bias)
    layers = stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *RMS_NORMS))
    whole = decoder(config, layers)
    # What it was trained on; max_position_embeddings is how far its frequencies may be stretched.
    return replace(whole, max_context=config.optional_integer("seq_length") or whole.max_context)
