"""InternVL 2.5 to 3.5 as transformers keeps them: Qwen, Llama or gpt-oss behind InternViT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families import build as build_inner
from vram_planner.model_profiles.families.common import hidden_size
from vram_planner.model_profiles.families.towers import tower_weights
from vram_planner.model_profiles.families.vision_language import language, pair, with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """Source: transformers models/internvl/modeling_internvl.py, InternVLMultiModalProjector."""
    inner, vision = build_inner(language(config, "qwen2")), config.sub("vision_config")
    ratio = config.number("downsample_ratio", default=0.5)
    if not 1 / 64 <= ratio <= 1:
        raise ConfigError(
            f"downsample_ratio is {ratio}", hint="give a share of the patches, such as 0.5, up to 1"
        )
    into = hidden_size(vision, 1024) * int(1 / ratio) ** 2
    projector = tower_weights(
        "projector",
        *((into,), (into,), (inner.hidden, into), (inner.hidden,)),
        *((inner.hidden, inner.hidden), (inner.hidden,)),
    )
    return with_towers(config, inner, (*intern_vit(vision), *projector), tied=True)


def intern_vit(vision: Config) -> tuple[Weight, ...]:
    """InternViT: a class token, learned positions, a learned scale on each branch. Source: InternVLVisionModel."""
    width = hidden_size(vision, 1024)
    inner = vision.integer("intermediate_size", default=4096)
    depth = vision.integer("num_hidden_layers", default=24)
    channels = vision.integer("num_channels", default=3, most=10**3)
    (high, wide), (down, across) = pair(vision, "image_size", 448), pair(vision, "patch_size", 14, most=10**4)
    square, vector = (width, width), (width,)
    stem = [vector, (width, channels, down, across), vector]
    if vision.flag("use_absolute_position_embeddings", default=True):
        stem.append(((high // down) * (wide // across) + 1, width))
    stem += [vector] * vision.flag("use_mask_token", default=False)
    stem += [vector, vector] * (not vision.flag("use_mean_pooling", default=True))
    n_norms = 4 if vision.text("norm_type", default="layer_norm") == "layer_norm" else 2
    n_biases = 1 + 3 * vision.flag("attention_bias", default=False)
    n_norms += 2 * vision.flag("use_qk_norm", default=False)
    # The two scales of the branches, then the norms and the biases of the attention.
    layer = [square] * 4 + [vector] * (2 + n_norms + n_biases)
    layer += [(inner, width), (inner,), (width, inner), vector]
    return (
        *tower_weights("vision.stem", *stem),
        *tower_weights("vision.layers", *((depth, *shape) for shape in layer)),
    )
