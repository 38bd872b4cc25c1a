"""DeepSeek-VL2: SigLIP and a projector that joins four patches, before DeepSeek's layers with or without MLA."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.model_profiles.config import Config
from vram_planner.model_profiles.families.common import decoder, hidden_size
from vram_planner.model_profiles.families.deepseek import attention_layers
from vram_planner.model_profiles.families.deepseek_v2 import latent_layers
from vram_planner.model_profiles.families.towers import siglip, tower_weights

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight

# Defaults of DeepseekV2Config in that repository.
_LATENT = {
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "num_attention_heads": 32,
}
_VOCABULARY = 102_400


def build(config: Config) -> Architecture:
    """Source: deepseek-ai/DeepSeek-VL2 modeling_deepseek_vl_v2.py; read as in vLLM's models/deepseek_vl2.py."""
    text = config.sub("language_config")
    if text.flag("use_mla", default=True):
        own = text.with_defaults(_LATENT)
        balanced = own.text("topk_method", default="gready") == "noaux_tc"
        layers = latent_layers(own, dense_first=0, correction_bias=balanced)
    else:
        # Its head_dim keys are 0: heads share the width evenly.
        own, layers = text, attention_layers(text)
    whole = decoder(own, layers, vocabulary=_VOCABULARY)
    towers = (*_eye(config.sub("vision_config")), *_projector(config, whole.hidden))
    return replace(whole, model_type="deepseek_vl_v2", towers=towers)


def _eye(vision: Config) -> tuple[Weight, ...]:
    """SigLIP with its pooling head, which the checkpoints hold though nothing uses it."""
    width = hidden_size(vision.with_defaults({"hidden_size": vision.raw("width")}), 1024)
    return siglip(
        Config(
            {
                "hidden_size": width,
                "intermediate_size": int(width * vision.number("mlp_ratio", default=4)),
                "num_hidden_layers": vision.integer("layers", default=24),
                "patch_size": vision.integer("patch_size", default=16, most=10**4),
                "image_size": vision.integer("image_size", default=384, most=10**5),
            },
            where=vision.where,
        )
    )


def _projector(config: Config, hidden: int) -> tuple[Weight, ...]:
    """Two matrices over `downsample_ratio`² joined patches, a vector for each new line and for the views' border."""
    part = config.sub("projector_config")
    eye = part.integer("input_dim", default=1152, most=10**6)
    joined = eye * part.integer("downsample_ratio", default=2, most=64) ** 2
    wide = hidden * part.integer("mlp_ratio", default=1, most=64)
    shapes = [(wide, joined), (wide,), (hidden, wide), (hidden,), (hidden,), (hidden,)]
    return tower_weights("projector", *shapes)
