"""Hunyuan-A13B: experts and a shared one of the same width in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.feed_forward import MixtureOfExperts
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    decoder,
    mlp,
    n_layers,
    norms,
    stack,
)
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
    "num_experts": 1,
    "max_position_embeddings": 2048,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/hunyuan_v1_moe/modeling_hunyuan_v1_moe.py."""
    config = config.with_defaults(_DEFAULTS)
    block = qwen3_attention(config, head_dim=None)
    count = n_layers(config)
    shared = mlp(config, prefix="shared_mlp.")
    made = {
        used: MixtureOfExperts(
            hidden=block.hidden,
            n_experts=_checked(config, used),
            top_k=used,
            expert_intermediate=shared.intermediate,
            shared=shared,
        )
        for used in set(_used(config, count))
    }
    feeds = [made[used] for used in _used(config, count)]
    return decoder(config, stack(block, (None,) * count, feeds, norms(block.hidden, *RMS_NORMS)))


def _used(config: Config, count: int) -> tuple[int, ...]:
    """How many experts a token uses in each layer: `moe_topk`, one number or one a layer."""
    if not isinstance(config.raw("moe_topk"), list | tuple):
        return (config.integer("moe_topk", "num_experts_per_tok", default=1, most=10**5),) * count
    used = config.integers("moe_topk")
    if len(used) < count:
        raise ConfigError(
            f"{config.where}moe_topk names {len(used)} layers of {count}",
            hint="give one entry for each layer",
        )
    return used[:count]


def _checked(config: Config, used: int) -> int:
    """The number of experts: one for all layers, for transformers builds no other."""
    n_experts = config.integer("num_experts", "num_local_experts", most=10**5)
    if not 1 <= used <= n_experts:
        raise ConfigError(
            f"{config.where}moe_topk ({used}) does not lie between 1 and the number of experts ({n_experts})",
            hint="correct 'moe_topk' or 'num_experts'",
        )
    return n_experts
