"""DBRX: fused query, key and value, layer norms without a shift, experts in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.feed_forward import MixtureOfExperts
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.common import attention, decoder, n_layers, norms, stack

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "max_position_embeddings": 2048,
}
_NAMES = {
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "max_seq_len": "max_position_embeddings",
}
_KV_HEADS, _WIDTH, _EXPERTS, _TOP_K = 1, 3584, 4, 1


def build(config: Config) -> Architecture:
    """Source: transformers models/dbrx/modeling_dbrx.py; defaults of DbrxAttentionConfig and DbrxFFNConfig."""
    own = {new: config.raw(old) for old, new in _NAMES.items()}
    config = config.with_defaults(own).with_defaults(_DEFAULTS)
    inner, feeds = config.sub("attn_config"), config.sub("ffn_config")
    block = attention(
        config, kv_heads=inner.integer("kv_n_heads", default=_KV_HEADS, most=10**5), fused_qkv=True
    )
    n_experts = feeds.integer("moe_num_experts", default=_EXPERTS, most=10**5)
    used = feeds.integer("moe_top_k", default=_TOP_K, most=10**5)
    if used > n_experts:
        raise ConfigError(
            f"{feeds.where}moe_top_k ({used}) is above the number of experts ({n_experts})",
            hint="correct 'moe_top_k' or 'moe_num_experts'",
        )
    feed = MixtureOfExperts(
        hidden=block.hidden,
        n_experts=n_experts,
        top_k=used,
        expert_intermediate=feeds.integer("ffn_hidden_size", default=_WIDTH),
    )
    return decoder(
        config, stack(block, (None,) * n_layers(config), feed, norms(block.hidden, "norm_1", "norm_2"))
    )
