"""Kimi Linear 48B-A3B: three layers of Kimi delta attention to one of latent attention, experts after the first layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vram_planner.architecture.recurrent import KimiDelta
from vram_planner.architecture.weight import Role, Weight
from vram_planner.architecture.weight import linear as gate
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    decoder,
    experts,
    hidden_size,
    mlp,
    n_layers,
    norms,
)
from vram_planner.model_profiles.families.deepseek_v2 import latent_attention
from vram_planner.model_profiles.families.hybrid import FULL, LINEAR, Parts, assemble, kinds
from vram_planner.model_profiles.families.patterns import DENSE, SPARSE, layer_kinds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture, Layer
    from vram_planner.model_profiles.config import Config

_DEFAULTS: Final = {
    "vocab_size": 163_840,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "moe_intermediate_size": 1024,
    "num_hidden_layers": 27,
    "num_attention_heads": 32,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "qk_nope_head_dim": 128,
}
_MAX_CONTEXT: Final = 1_048_576
_EVERY: Final = 4


def build(config: Config, **rest: Any) -> Architecture:
    """
    Source: transformers models/kimi_linear/modeling_kimi_linear.py and KimiLinearConfig.__post_init__.

    What Kimi K3 adds under keys of its own is in vLLM models/kimi_k3/nvidia/model.py. `rest` are Architecture's
    own fields.
    """
    config = config.with_defaults(_DEFAULTS)
    count, linear = n_layers(config), config.sub("linear_attn_config")
    head_dim = linear.optional_integer("head_dim") or config.integer("linear_head_dim", default=128)
    delta = KimiDelta(
        hidden=hidden_size(config),
        heads=linear.optional_integer("num_heads") or config.integer("linear_num_heads", default=32),
        head_dim=head_dim,
        kernel=linear.optional_integer("short_conv_kernel_size")
        or config.integer("linear_conv_kernel_dim", default=4, most=10**3),
        gate_rank=head_dim,
        full_gate=linear.flag("use_full_rank_gate", default=False),
    )
    found = kinds(config, count, (LINEAR, FULL), _usual(linear, count), keys=("layer_types",))
    mixers: dict[str, Mixer] = {LINEAR: delta, FULL: latent_attention(config, extras=_output_gate(config))}
    layers = sparse_layers(config, [mixers[kind] for kind in found], dense_first=1, n_experts=256)
    context = config.integer("model_max_length", "max_position_embeddings", default=_MAX_CONTEXT, most=10**9)
    return decoder(config, layers, max_context=context, **rest)


def _usual(linear: Config, count: int) -> tuple[str, ...]:
    """Each fourth layer but the first attends; or the two lists of layers, counted from 1, of the first release."""
    if linear.raw("full_attn_layers") is None or linear.raw("kda_layers") is None:
        return tuple(LINEAR if index % _EVERY or not index else FULL for index in range(count))
    full, delta = frozenset(linear.integers("full_attn_layers")), frozenset(linear.integers("kda_layers"))
    if full & delta or full | delta != frozenset(range(1, count + 1)):
        raise ConfigError(
            f"{linear.where}full_attn_layers and kda_layers do not name each of {count} layers once",
            hint="layers count from 1",
        )
    return tuple(FULL if index + 1 in full else LINEAR for index in range(count))


def _output_gate(config: Config) -> tuple[Weight, ...]:
    """A gate as wide as all values, where `mla_use_output_gate` (Kimi K3)."""
    if not config.flag("mla_use_output_gate", default=False):
        return ()
    heads = config.integer("num_attention_heads", most=10**5)
    return gate("g_proj", heads * config.integer("v_head_dim"), hidden_size(config), units=heads)


def residual_choice(config: Config, name: str) -> tuple[Weight, ...]:
    """A norm and a row that score the residuals of earlier blocks of layers. Source: KimiDecoderLayer, attn_res."""
    hidden = hidden_size(config)
    row = Weight(name=f"{name}_res_proj", shape=(1, hidden), role=Role.NORM)
    return (*norms(hidden, f"{name}_res_norm"), row)


def sparse_layers(
    config: Config, mixers: Sequence[Mixer], *, dense_first: int, n_experts: int
) -> tuple[Layer, ...]:
    """
    Dense layers, then experts beside shared ones, under Kimi's keys; the numbers are the family's defaults.

    Source: KimiLinearMoE and `mlp_layer_types` of KimiLinearConfig.
    """
    first = config.integer("first_k_dense_replace", default=dense_first, least=0)
    usual = [SPARSE if index >= first else DENSE for index in range(len(mixers))]
    found = layer_kinds(config, "mlp_layer_types", len(mixers), (DENSE, SPARSE), usual)
    width = config.integer("moe_intermediate_size")
    shared = config.integer("num_shared_experts", "n_shared_experts", default=1, least=0)
    config = config.with_defaults(
        {
            "num_experts_per_tok": config.integer("num_experts_per_token", default=8, most=10**5),
            "num_experts": config.integer("num_local_experts", default=n_experts, most=10**5),
        }
    )
    feeds: dict[str, FeedForward] = {DENSE: mlp(config)}
    if SPARSE in found:
        feeds[SPARSE] = experts(
            config,
            count=("num_experts",),
            width=("moe_intermediate_size",),
            shared=mlp(config, intermediate=width * shared, prefix="shared_experts.") if shared else None,
            correction_bias=True,
            latent=config.optional_integer("routed_expert_hidden_size"),
            latent_norm=config.flag("latent_moe_use_norm", default=False),
        )
    around = norms(hidden_size(config), *RMS_NORMS)
    if config.raw("attn_res_block_size") is not None:
        around += (*residual_choice(config, "self_attention"), *residual_choice(config, "mlp"))
    return assemble(Parts(mixer, feeds[kind], around) for mixer, kind in zip(mixers, found, strict=True))
