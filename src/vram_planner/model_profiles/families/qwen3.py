"""Qwen 3, dense: a norm over each head of queries and keys, no biases unless the config has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import RMS_NORMS, attention, decoder, mlp, norms, stack
from vram_planner.model_profiles.families.qwen2 import qwen_windows

if TYPE_CHECKING:
    from vram_planner.architecture.attention import FullAttention
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_HEAD_DIM = 128


def build(config: Config) -> Architecture:
    """Source: transformers models/qwen3/modeling_qwen3.py."""
    block = qwen3_attention(config, head_dim=_HEAD_DIM)
    return decoder(config, stack(block, qwen_windows(config), mlp(config), norms(block.hidden, *RMS_NORMS)))


def qwen3_attention(config: Config, *, head_dim: int | None) -> FullAttention:
    """Grouped-query attention with norms over `head_dim`; `attention_bias` holds for q, k, v and o."""
    bias = config.flag("attention_bias", default=False)
    width = attention(config, head_dim=head_dim).head_dim
    return attention(config, head_dim=head_dim, qkv_bias=bias, out_bias=bias, qk_norm=(width, width))
