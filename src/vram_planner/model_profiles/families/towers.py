"""Encoders of images that hang beside a language model: their tensors only, for they keep no cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, Weight

if TYPE_CHECKING:
    from vram_planner.model_profiles.config import Config


def tower_weights(name: str, *shapes: tuple[int, ...]) -> tuple[Weight, ...]:
    """Tensors of a tower, numbered."""
    return tuple(
        Weight(name=f"{name}.{index}", shape=shape, role=Role.TOWER) for index, shape in enumerate(shapes)
    )


def encoder(depth: int, width: int, inner: int, *extras: tuple[int, ...]) -> tuple[Weight, ...]:
    """
    `depth` transformer layers as CLIP and SigLIP have them: biases and two norms with shifts; `extras` are more tensors.

    One tensor stands for the same one of every layer: the shapes are what counts.
    """
    square, vector = (width, width), (width,)
    layer = [square, vector] * 4 + [vector] * 4 + [(inner, width), (inner,), (width, inner), vector]
    return tower_weights("vision.layers", *((depth, *shape) for shape in (*layer, *extras)))


def clip(vision: Config) -> tuple[Weight, ...]:
    """
    A CLIP vision transformer: a class token, norms before and after the layers.

    Source: transformers models/clip/modeling_clip.py, CLIPVisionModel; defaults of CLIPVisionConfig.
    """
    width = vision.integer("hidden_size", default=768, most=10**6)
    inner = vision.integer("intermediate_size", default=3072)
    depth = vision.integer("num_hidden_layers", default=12)
    patch = vision.integer("patch_size", default=32, most=10**4)
    channels = vision.integer("num_channels", default=3, most=10**3)
    side = vision.integer("image_size", default=224, most=10**5) // patch
    stem = [(width,), (width, channels, patch, patch), (side * side + 1, width)]
    around = [(width,)] * 4
    return tower_weights("vision.stem", *stem, *around) + encoder(depth, width, inner)


def siglip(vision: Config) -> tuple[Weight, ...]:
    """
    A SigLIP vision transformer with its final norm, without the pooling head where `vision_use_head` is false.

    Source: transformers models/siglip/modeling_siglip.py, SiglipVisionTransformer; defaults of SiglipVisionConfig.
    """
    width = vision.integer("hidden_size", default=768, most=10**6)
    inner = vision.integer("intermediate_size", default=3072)
    depth = vision.integer("num_hidden_layers", default=12)
    patch = vision.integer("patch_size", default=16, most=10**4)
    channels = vision.integer("num_channels", default=3, most=10**3)
    side = vision.integer("image_size", default=224, most=10**5) // patch
    weights = tower_weights(
        "vision.embeddings", (width, channels, patch, patch), (width,), (side * side, width)
    ) + tower_weights("vision.post_layernorm", (width,), (width,))
    square, vector = (width, width), (width,)
    weights += encoder(depth, width, inner)
    if vision.flag("vision_use_head", default=True):
        fused = [(3 * width, width), (3 * width,), square, vector]
        head = [(1, 1, width), *fused, vector, vector, (inner, width), (inner,), (width, inner), vector]
        weights += tower_weights("vision.head", *head)
    return weights


def pixtral(vision: Config) -> tuple[Weight, ...]:
    """
    A Pixtral vision transformer: rotary positions, gated MLP, no biases.

    Source: transformers models/pixtral/modeling_pixtral.py; defaults of PixtralVisionConfig.
    """
    width = vision.integer("hidden_size", default=1024, most=10**6)
    inner = vision.integer("intermediate_size", default=4096)
    depth = vision.integer("num_hidden_layers", default=24)
    patch = vision.integer("patch_size", default=16, most=10**4)
    channels = vision.integer("num_channels", default=3, most=10**3)
    square, vector = (width, width), (width,)
    layer = [square] * 4 + [vector] * 2 + [(inner, width), (inner, width), (width, inner)]
    stem = tower_weights("vision.stem", (width, channels, patch, patch), vector)
    return stem + tower_weights("vision.layers", *((depth, *shape) for shape in layer))


TEXT_ONLY = "the vision tower is not counted: 'architectures' names no class that has one"


def sees(config: Config) -> bool:
    """Whether `architectures` names the class with a vision tower, not the text model that AutoModelForCausalLM builds."""
    classes = config.texts("architectures", default=())
    return bool(classes) and classes[0].endswith("ForConditionalGeneration")
