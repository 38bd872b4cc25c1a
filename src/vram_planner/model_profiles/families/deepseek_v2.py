"""DeepSeek-V2, V2-Lite, V2.5 and Coder-V2: latent attention, fine-grained experts beside shared ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.architecture.attention import Latent
from vram_planner.architecture.model import Layer
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    decoder,
    experts,
    hidden_size,
    mlp,
    n_layers,
    norms,
)

if TYPE_CHECKING:
    from vram_planner.architecture.feed_forward import MixtureOfExperts
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """Source: transformers models/deepseek_v2/modeling_deepseek_v2.py."""
    # transformers' own default leaves the number open; every published DeepSeek-V2 uses six.
    return decoder(config, latent_layers(config, dense_first=0, top_k=6))


def latent_layers(config: Config, *, dense_first: int, **features: Any) -> tuple[Layer, ...]:
    """
    Dense layers, then layers of experts; `dense_first` is the family's default of `first_k_dense_replace`.

    `features` are MixtureOfExperts' own fields. A model without routed experts is dense throughout.
    """
    count, first = n_layers(config), config.integer("first_k_dense_replace", default=dense_first, least=0)
    step = config.integer("moe_layer_freq", default=1)
    has_experts = config.raw("n_routed_experts") is not None
    sparse = [has_experts and index >= first and index % step == 0 for index in range(count)]
    dense = latent_layer(config, experts_in=False) if not all(sparse) else None
    with_experts = latent_layer(config, experts_in=True, **features) if any(sparse) else None
    return tuple(layer for kind in sparse if (layer := with_experts if kind else dense) is not None)


def latent_layer(config: Config, *, experts_in: bool, **features: Any) -> Layer:
    """One decoder layer. Source: DeepseekV3Attention and DeepseekV3MoE, whose shapes V2 shares."""
    hidden = hidden_size(config)
    feed = latent_experts(config, **features) if experts_in else mlp(config)
    return Layer(mixer=latent_attention(config), feed_forward=feed, norms=norms(hidden, *RMS_NORMS))


def latent_attention(config: Config, **features: Any) -> Latent:
    """Latent attention as the config states it; `features` are Latent's own fields."""
    return Latent(
        hidden=hidden_size(config),
        n_heads=config.integer("num_attention_heads", most=10**5),
        q_rank=config.optional_integer("q_lora_rank"),
        kv_rank=config.integer("kv_lora_rank"),
        nope_dim=config.integer("qk_nope_head_dim"),
        rope_dim=config.integer("qk_rope_head_dim"),
        value_dim=config.integer("v_head_dim"),
        bias=config.flag("attention_bias", default=False),
        **features,
    )


def latent_experts(config: Config, **features: Any) -> MixtureOfExperts:
    """Routed and shared experts under DeepSeek's keys; `features` are MixtureOfExperts' own fields."""
    n_shared = config.integer("n_shared_experts", default=0, least=0)
    width = config.integer("moe_intermediate_size") * n_shared
    return experts(
        config,
        count=("n_routed_experts", "num_experts", "num_local_experts"),
        width=("moe_intermediate_size",),
        shared=mlp(config, intermediate=width, prefix="shared_experts.") if n_shared else None,
        **features,
    )
