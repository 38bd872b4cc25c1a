"""InternLM 7B and 20B: Llama with biases on q, k, v and o."""

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
    """Source: InternLM's modeling_internlm.py; vLLM read it with its Llama (`bias`) up to 0.22."""
    bias = config.flag("bias", default=True)
    block = attention(config, qkv_bias=bias, out_bias=bias)
    layers = stack(block, (None,) * n_layers(config), mlp(config), norms(block.hidden, *RMS_NORMS))
    return decoder(config, layers)
