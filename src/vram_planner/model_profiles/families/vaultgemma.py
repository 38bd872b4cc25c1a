"""VaultGemma: Gemma 2 with two norms a layer instead of four."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import (
    attention,
    decoder,
    mlp,
    n_layers,
    norms,
    stack,
    unless_null,
    windows,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 256_000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
}
_WINDOW = 4096
_EVERY = 2


def build(config: Config) -> Architecture:
    """Source: transformers models/vaultgemma/modeling_vaultgemma.py."""
    config = config.with_defaults(_DEFAULTS)
    bias = config.flag("attention_bias", default=False)
    block = attention(config, qkv_bias=bias, out_bias=bias)
    window = config.optional_integer("sliding_window") or unless_null(config, "sliding_window", _WINDOW)
    widths = windows(config, n_layers(config), window=window, every=_EVERY)
    around = norms(block.hidden, "input_layernorm", "pre_feedforward_layernorm")
    capped = config.raw("final_logit_softcapping") is not None or not config.has("final_logit_softcapping")
    return decoder(config, stack(block, widths, mlp(config), around), tied=True, capped_logits=capped)
