"""InternLM 2 and 2.5: grouped-query attention with one matrix for q, k and v."""

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
    """Source: InternLM's modeling_internlm2.py; read as in vLLM model_executor/models/internlm2.py."""
    bias = config.flag("bias", default=True)
    block = attention(config, qkv_bias=bias, out_bias=bias, fused_qkv=True)
    layers = stack(block, (None,) * n_layers(config), mlp(config), norms(block.hidden, *RMS_NORMS))
    return decoder(config, layers)
