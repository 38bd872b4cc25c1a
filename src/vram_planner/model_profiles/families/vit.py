"""Encoders of models that bring their own code: their layers' tensors, InternViT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.towers import tower_weights

if TYPE_CHECKING:
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

Shape = tuple[int, ...]


def block_shapes(width: int, inner: int) -> list[Shape]:
    """One pre-norm encoder layer: q, k, v and o, two norms, two matrices, biases everywhere."""
    square, vector = (width, width), (width,)
    return [*[square, vector] * 4, *[vector] * 4, (inner, width), (inner,), (width, inner), vector]


def in_each(name: str, depth: int, shapes: list[Shape]) -> tuple[Weight, ...]:
    """The tensors of `depth` layers that are alike, those of all layers as one."""
    return tower_weights(name, *((depth, *shape) for shape in shapes))


def intern_vit(vision: Config) -> tuple[Weight, ...]:
    """
    InternViT 300M and 6B: one matrix for q, k and v, two learned scales a layer.

    Source: OpenGVLab/InternVL internvl_chat/internvl/model/internvl_chat/modeling_intern_vit.py.
    """
    width = vision.integer("hidden_size", default=3200, most=10**6)
    inner = vision.integer("intermediate_size", default=12_800)
    depth = vision.integer("num_hidden_layers", default=48)
    patch = vision.integer("patch_size", default=14, most=10**4)
    channels = vision.integer("num_channels", default=3, most=10**3)
    side = vision.integer("image_size", default=224, most=10**5) // patch
    vector = (width,)
    layer: list[Shape] = [(3 * width, width), (width, width), vector, vector, vector]
    layer += [(inner, width), (inner,), (width, inner), vector]
    layer += [vector] * (4 if vision.text("norm_type", default="rms_norm") == "layer_norm" else 2)
    if vision.flag("qkv_bias", default=False):
        layer.append((3 * width,))
    if vision.flag("qk_normalization", default=True):
        layer += [vector, vector]
    stem = [(1, 1, width), (width, channels, patch, patch), vector, (1, side * side + 1, width)]
    return tower_weights("vision.stem", *stem) + in_each("vision.layers", depth, layer)
