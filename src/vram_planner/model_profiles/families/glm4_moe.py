"""GLM-4.5, 4.5-Air, 4.6, 4.7: grouped-query attention over DeepSeek-V3's kind of experts, layers for drafting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    experts,
    hidden_size,
    mlp,
    n_layers,
    norms,
    stack,
)
from vram_planner.model_profiles.families.deepseek_v3 import mtp_weights

if TYPE_CHECKING:
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

_KV_HEADS = 8


def build(config: Config) -> Architecture:
    """Source: transformers models/glm4_moe/modeling_glm4_moe.py."""
    bias = config.flag("attention_bias", default=False)
    # Without head_dim transformers rounds hidden / heads down, as it does for its own default of 4096 / 96.
    share = hidden_size(config) // config.integer("num_attention_heads", default=96)
    bare = attention(config, kv_heads=_KV_HEADS, head_dim=share)
    widths = (bare.head_dim, bare.head_dim) if config.flag("use_qk_norm", default=False) else None
    block = attention(config, kv_heads=_KV_HEADS, head_dim=share, qkv_bias=bias, qk_norm=widths)
    sparse = _experts(config)
    first, count = config.integer("first_k_dense_replace", default=1, least=0), n_layers(config)
    feeds: list[FeedForward] = [mlp(config)] * min(first, count) if first else []
    feeds += [sparse] * (count - len(feeds))
    layers = stack(block, (None,) * count, feeds, norms(block.hidden, *RMS_NORMS))
    drafts = config.integer("num_nextn_predict_layers", default=0, least=0)
    draft: tuple[Weight, ...] = ()
    if drafts:
        (layer,) = stack(block, (None,), sparse, norms(block.hidden, *RMS_NORMS))
        draft = mtp_weights(block.hidden, layer) * drafts
    return decoder(config, layers, draft_layers=draft, draft_mixers=(block,) * drafts)


def _experts(config: Config) -> FeedForward:
    n_shared = config.integer("n_shared_experts", default=1, least=0)
    width = config.integer("moe_intermediate_size") * n_shared
    return experts(
        config,
        count=("n_routed_experts",),
        width=("moe_intermediate_size",),
        top_k=8,
        shared=mlp(config, intermediate=width, prefix="shared_experts.") if n_shared else None,
        correction_bias=True,
    )
