"""Emu3, the language model: Llama over words and the codes of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    mlp,
    n_layers,
    norms,
    stack,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# Emu3TextConfig's own defaults.
_DEFAULTS = {
    "vocab_size": 184_622,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 9216,
}
_KV_HEADS = 8


def build(config: Config, **rest: Any) -> Architecture:
    """Source: transformers models/emu3/modeling_emu3.py, Emu3ForCausalLM; `rest` are Architecture's own fields."""
    config = config.with_defaults(_DEFAULTS)
    if not config.has("num_key_value_heads"):  # null means as many as query heads
        config = config.with_defaults({"num_key_value_heads": _KV_HEADS})
    bias = config.flag("attention_bias", default=False)
    block = attention(config, qkv_bias=bias, out_bias=bias)
    feed = mlp(config, bias=config.flag("mlp_bias", default=False))
    layers = stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *RMS_NORMS))
    return decoder(config, layers, **rest)
