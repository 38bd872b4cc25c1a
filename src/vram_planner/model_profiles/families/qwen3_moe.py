"""Qwen 3 with experts: 30B-A3B, 235B-A22B, Qwen3-Coder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import RMS_NORMS, decoder, experts, n_layers, norms, stack
from vram_planner.model_profiles.families.qwen2_moe import sparse_or_dense
from vram_planner.model_profiles.families.qwen3 import qwen3_attention

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_WINDOW = 4096


def build(config: Config) -> Architecture:
    """Source: transformers models/qwen3_moe/modeling_qwen3_moe.py."""
    block = qwen3_attention(config, head_dim=None)
    sparse = experts(
        config, count=("num_experts", "num_local_experts"), width=("moe_intermediate_size",), top_k=8
    )
    window = None
    if config.flag("use_sliding_window", default=False):
        window = config.integer("sliding_window", default=_WINDOW)
    widths = (window,) * n_layers(config)
    return decoder(
        config, stack(block, widths, sparse_or_dense(config, sparse), norms(block.hidden, *RMS_NORMS))
    )
