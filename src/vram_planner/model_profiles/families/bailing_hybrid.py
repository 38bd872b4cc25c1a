"""Bailing hybrid (Ling 2.5 and Ring 2.5 linear): five layers of Kimi delta attention to one of gated latent attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture.recurrent import KimiDelta
from vram_planner.architecture.weight import linear
from vram_planner.model_profiles.families.common import decoder, hidden_size, n_layers
from vram_planner.model_profiles.families.deepseek_v2 import latent_attention
from vram_planner.model_profiles.families.hybrid import FULL, LINEAR, every, kinds
from vram_planner.model_profiles.families.kimi_linear import sparse_layers

if TYPE_CHECKING:
    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS: Final = {
    "vocab_size": 157_184,
    "hidden_size": 2560,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 42,
    "num_attention_heads": 32,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "qk_nope_head_dim": 128,
}
_MAX_CONTEXT: Final = 262_144
_NO_DRAFT: Final = (
    "its layers for multi-token prediction are not counted: transformers has no module for them"
)


def build(config: Config) -> Architecture:
    """Source: transformers models/bailing_hybrid/modeling_bailing_hybrid.py and BailingHybridConfig.__post_init__."""
    config = config.with_defaults(_DEFAULTS)
    hidden, count = hidden_size(config), n_layers(config)
    heads = config.integer("num_attention_heads", most=10**5)
    delta = KimiDelta(
        hidden=hidden,
        heads=config.integer("linear_num_heads", default=heads, most=10**5),
        # A saved config holds the latent's rotary width under head_dim.
        head_dim=config.integer("linear_head_dim", "head_dim", default=128, most=10**5),
        kernel=config.integer("linear_conv_kernel_dim", "short_conv_kernel_size", default=4, most=10**3),
        gate_rank=None,
    )
    gate = linear("g_proj", heads, hidden, units=heads)
    usual = every(count, config.integer("layer_group_size", default=6))
    mixers: dict[str, Mixer] = {LINEAR: delta, FULL: latent_attention(config, extras=gate)}
    found = kinds(config, count, (LINEAR, FULL), usual, keys=("layer_types",))
    layers = sparse_layers(config, [mixers[kind] for kind in found], dense_first=2, n_experts=512)
    drafts = config.integer("num_nextn_predict_layers", "num_mtp_layers", default=1, least=0)
    context = config.integer("model_max_length", default=_MAX_CONTEXT, most=10**9)
    return decoder(config, layers, max_context=context, notes=(_NO_DRAFT,) if drafts else ())
