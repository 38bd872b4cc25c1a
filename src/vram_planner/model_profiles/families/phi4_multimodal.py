"""Phi-4-multimodal: Phi-3's layers with a vision and an audio tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    mlp,
    n_layers,
    norms,
    stack,
    unless_null,
)
from vram_planner.model_profiles.families.phi4_towers import phi4_ears, phi4_eyes

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 200_064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 131_072,
}
_KV_HEADS = 8
_NO_ADAPTERS = "the LoRA adapters that the checkpoint brings for images and speech are not counted"


def build(config: Config) -> Architecture:
    """Source: transformers models/phi4_multimodal/modeling_phi4_multimodal.py."""
    config = config.with_defaults(_DEFAULTS)
    block = attention(config, kv_heads=unless_null(config, "num_key_value_heads", _KV_HEADS), fused_qkv=True)
    widths = (config.optional_integer("sliding_window"),) * n_layers(config)
    layers = stack(block, widths, mlp(config, fused=True), norms(block.hidden, *RMS_NORMS))
    towers = (
        *phi4_eyes(config.sub("vision_config"), block.hidden),
        *phi4_ears(config.sub("audio_config"), block.hidden),
    )
    return decoder(config, layers, towers=towers, notes=(_NO_ADAPTERS,))
