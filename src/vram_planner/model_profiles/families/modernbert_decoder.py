"""ModernBERT as a decoder: two sliding layers to one full, a dense layer and a norm before the tied head."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, linear
from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers, norms, stack
from vram_planner.model_profiles.families.patterns import FULL, SLIDING, layer_kinds

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 50_368,
    "hidden_size": 768,
    "intermediate_size": 1152,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "max_position_embeddings": 8192,
}
_WINDOW = 128
_EVERY = 3


def build(config: Config) -> Architecture:
    """
    Source: transformers models/modernbert_decoder/modeling_modernbert_decoder.py.

    The window is half of `local_attention`; the first layer has no norm before its attention.
    """
    config = config.with_defaults(_DEFAULTS)
    bias, shift = config.flag("attention_bias", default=False), config.flag("norm_bias", default=False)
    block = replace(
        attention(config, qkv_bias=bias, out_bias=bias),
        n_kv_heads=config.integer("num_attention_heads", most=10**5),
    )
    count, window = n_layers(config), max(1, config.integer("local_attention", default=_WINDOW) // 2)
    every = config.integer("global_attn_every_n_layers", default=_EVERY)
    usual = [SLIDING if index % every else FULL for index in range(count)]
    kinds = layer_kinds(config, "layer_types", count, (FULL, SLIDING), usual)
    feed = mlp(config, fused=True, bias=config.flag("mlp_bias", default=False))
    widths = tuple(window if kind == SLIDING else None for kind in kinds)
    hidden = block.hidden
    first = stack(block, widths[:1], feed, norms(hidden, "mlp_norm", bias=shift))
    rest = stack(block, widths[1:], feed, norms(hidden, "attn_norm", "mlp_norm", bias=shift))
    dense = config.flag("classifier_bias", default=False)
    before_head = (
        *norms(hidden, "final_norm", bias=shift),
        *linear("lm_head.dense", hidden, hidden, bias=dense, role=Role.HEAD),
        *norms(hidden, "lm_head.norm", bias=shift),
    )
    return decoder(
        config,
        first + rest,
        tied=True,
        final_norm=before_head,
        embedding_extras=norms(hidden, "embeddings.norm", bias=shift),
        head_bias=config.flag("decoder_bias", default=True),
    )
