"""GLM-4.1V and GLM-4.6V-Flash: GLM-4 0414's layers behind a vision transformer with a gated merger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.model_profiles.families import glm4
from vram_planner.model_profiles.families.towers import tower_weights
from vram_planner.model_profiles.families.towers_qwen import patches
from vram_planner.model_profiles.families.vision_language import with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

_TEXT: dict[str, Any] = {
    "vocab_size": 151_552,
    "hidden_size": 4096,
    "intermediate_size": 13_696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "max_position_embeddings": 32_768,
}


def build(config: Config) -> Architecture:
    """
    Source: transformers models/glm4v/modeling_glm4v.py.

    Its attention has biases on q, k and v and heads of hidden_size / num_attention_heads, whatever the config says.
    """
    text = (config if config.raw("text_config") is None else config.sub("text_config")).with_defaults(_TEXT)
    heads = text.integer("num_attention_heads", most=10**5)
    fixed = {"attention_bias": True, "head_dim": max(1, text.integer("hidden_size", most=10**6) // heads)}
    inner = glm4.build(text.replaced(fixed))
    either = config.raw("model_type") != "glm46v"
    return with_towers(config, inner, glm_vision(config.sub("vision_config")), either=either)


def glm_vision(vision: Config) -> tuple[Weight, ...]:
    """
    RMS norms, a gated MLP of the output's width, a convolution that merges patches, a gated block behind it.

    Source: Glm4vVisionModel and Glm4vVisionPatchMerger; defaults of Glm4vVisionConfig.
    """
    cut = patches(vision, 14)
    width = vision.integer("hidden_size", default=1536, most=10**6)
    out = vision.integer("out_hidden_size", default=4096, most=10**6)
    inner = vision.integer("intermediate_size", default=13_696)
    depth = vision.integer("depth", "num_hidden_layers", default=24)
    side = vision.integer("image_size", default=336, most=10**5) // cut.kernel[-1]
    merge = vision.integer("spatial_merge_size", default=2, most=64)
    layer = [(width,)] * 2 + [(3 * width, width), (width, width), *[(out, width)] * 2, (width, out)]
    if vision.flag("attention_bias", default=False):
        layer.append((3 * width,))
    merger = [(out, out), (out,), (out,), (inner, out), (inner, out), (out, inner)]
    return (
        *tower_weights("vision.stem", (side * side, width), (width, *cut.kernel), (width,)),
        *tower_weights("vision.layers", *((depth, *shape) for shape in layer)),
        *tower_weights("vision.norms", (width,), (width,)),
        *tower_weights("vision.downsample", (out, width, merge, merge), (out,)),
        *tower_weights("vision.merger", *merger),
    )
