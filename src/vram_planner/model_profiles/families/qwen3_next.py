"""Qwen3-Next 80B-A3B and Qwen3-Coder-Next: three layers of gated delta rule to one of gated attention, many experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture.model import Layer
from vram_planner.architecture.recurrent import GatedDeltaNet
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    experts,
    hidden_size,
    mlp,
    n_layers,
    norms,
)
from vram_planner.model_profiles.families.deepseek_v3 import mtp_weights
from vram_planner.model_profiles.families.hybrid import FULL, LINEAR, Parts, assemble, every, kinds
from vram_planner.model_profiles.families.qwen2_moe import sparse_or_dense

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vram_planner.architecture.attention import FullAttention, Mixer
    from vram_planner.architecture.feed_forward import FeedForward, MixtureOfExperts
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_FUSED: Final = ("in_proj_qkvz", "in_proj_ba")
# Shared with Qwen 3.5. Source: Qwen3NextConfig and Qwen3_5TextConfig.
DELTA_DEFAULTS: Final = {
    "num_attention_heads": 16,
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "max_position_embeddings": 32_768,
}
_DEFAULTS: Final = {
    **DELTA_DEFAULTS,
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 48,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts_per_tok": 10,
    "num_experts": 512,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/qwen3_next/modeling_qwen3_next.py."""
    config = config.with_defaults(_DEFAULTS)
    feeds: Sequence[FeedForward]
    if config.integer("num_experts", least=0):
        feeds = sparse_or_dense(config, shared_and_routed(config))
    else:
        feeds = [mlp(config)] * n_layers(config)
    # The config says nothing of them, and vLLM takes one; it is in the published total, to the parameter.
    count = config.integer("num_nextn_predict_layers", default=1, least=0, most=1000)
    mixer, around = gated_attention(config), norms(hidden_size(config), *RMS_NORMS)
    drafting = Layer(mixer=mixer, feed_forward=feeds[-1], norms=around)
    draft = mtp_weights(hidden_size(config), drafting) + drafting.weights * (count - 1) if count else ()
    layers = delta_layers(config, feeds, fused=_FUSED)
    return decoder(config, layers, draft_layers=draft, draft_mixers=(mixer,) * count)


def shared_and_routed(config: Config) -> MixtureOfExperts:
    """Experts beside a shared one behind a sigmoid gate. Source: Qwen3NextSparseMoeBlock."""
    shared = mlp(
        config, intermediate=config.integer("shared_expert_intermediate_size"), prefix="shared_expert."
    )
    return experts(
        config, count=("num_experts",), width=("moe_intermediate_size",), shared=shared, shared_gate=True
    )


def delta_layers(
    config: Config, feeds: Sequence[FeedForward], *, fused: tuple[str, ...]
) -> tuple[Layer, ...]:
    """
    A layer for each feed-forward block; each fourth attends unless `layer_types` or `full_attention_interval` differ.

    Source: Qwen3NextConfig.__post_init__, Qwen3NextDecoderLayer.
    """
    count = n_layers(config)
    usual = every(count, config.integer("full_attention_interval", default=4))
    found = kinds(config, count, (LINEAR, FULL), usual, keys=("layer_types",))
    mixers: dict[str, Mixer] = {LINEAR: _delta_net(config, fused), FULL: gated_attention(config)}
    around = norms(hidden_size(config), *RMS_NORMS)
    return assemble(Parts(mixers[kind], feed, around) for kind, feed in zip(found, feeds, strict=True))


def gated_attention(config: Config) -> FullAttention:
    """Grouped-query attention whose output is gated. Source: Qwen3NextAttention."""
    bias = config.flag("attention_bias", default=False)
    width = config.integer("head_dim", most=10**5)
    return attention(config, qkv_bias=bias, out_bias=bias, qk_norm=(width, width), gated_query=True)


def _delta_net(config: Config, fused: tuple[str, ...]) -> GatedDeltaNet:
    """The delta rule; in vLLM its state is in float32 where `mamba_ssm_dtype` asks for it (Qwen 3.5)."""
    keys = config.integer("linear_num_key_heads", most=10**5)
    values = config.integer("linear_num_value_heads", most=10**5)
    if values % keys:
        raise ConfigError(
            f"{config.where}linear_num_value_heads ({values}) is no multiple of linear_num_key_heads ({keys})",
            hint="each key head serves the same number of value heads: correct one of the two",
        )
    return GatedDeltaNet(
        hidden=hidden_size(config),
        key_heads=keys,
        value_heads=values,
        key_dim=config.integer("linear_key_head_dim", most=10**5),
        value_dim=config.integer("linear_value_head_dim", most=10**5),
        kernel=config.integer("linear_conv_kernel_dim", most=10**3),
        fused=fused,
        float32_state=config.raw("mamba_ssm_dtype") == "float32",
    )
