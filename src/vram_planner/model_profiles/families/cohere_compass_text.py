"""North Micro and Compass, the text model: Cohere's layers, all full unless the config says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import (
    attention,
    decoder,
    mlp,
    n_layers,
    norms,
    stack,
    windows,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 256_000,
    "hidden_size": 8192,
    "intermediate_size": 22_528,
    "num_hidden_layers": 40,
    "num_attention_heads": 64,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/cohere_compass/modeling_cohere_compass.py, CohereCompassForCausalLM."""
    own = config.with_defaults(_DEFAULTS)
    bias, count = own.flag("attention_bias", default=False), n_layers(own)
    block = attention(own, qkv_bias=bias, out_bias=bias)
    widths: tuple[int | None, ...] = (None,) * count
    if own.raw("layer_types") is not None:
        widths = windows(own, count, window=own.integer("sliding_window"))
    layers = stack(block, widths, mlp(own), norms(block.hidden, "input_layernorm"))
    return decoder(own, layers, tied=True)
