"""Hunyuan dense: norms over each head of queries and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import RMS_NORMS, decoder, mlp, n_layers, norms, stack
from vram_planner.model_profiles.families.qwen3 import qwen3_attention

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 290_943,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/hunyuan_v1_dense/modeling_hunyuan_v1_dense.py."""
    config = config.with_defaults(_DEFAULTS)
    block = qwen3_attention(config, head_dim=None)
    widths = (None,) * n_layers(config)
    return decoder(config, stack(block, widths, mlp(config), norms(block.hidden, *RMS_NORMS)))
