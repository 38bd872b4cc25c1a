"""Projectors behind towers of a family's own: Qwen VL, GLM-4.1V, Pixtral, Mistral Small 3.1, Llama 4."""

from __future__ import annotations

from itertools import pairwise
from math import isqrt
from typing import TYPE_CHECKING, Any

from vram_planner.errors import UnsupportedArchitectureError
from vram_planner.model_profiles.families.common import hidden_size
from vram_planner.model_profiles.families.vision_language import section
from vram_planner.model_profiles.projectors.sketch import Sketch, depth_of, heads_of, image_of, patch_of

if TYPE_CHECKING:
    from vram_planner.model_profiles.config import Config

_FRAMES = 2
_MISTRAL_3: dict[str, Any] = {"patch_size": 14}


def _cut(vision: Config, kind: str, width: int, *, layers: int, patch: int) -> Sketch:
    """A tower over patches of two frames, of which merge × merge become a token."""
    if vision.integer("temporal_patch_size", default=_FRAMES, most=10**3) != _FRAMES:
        raise UnsupportedArchitectureError(
            "llama.cpp's converter takes patches of two frames only", hint="leave --mmproj out"
        )
    return Sketch(
        kind=kind,
        layers=depth_of(vision, layers),
        width=width,
        heads=heads_of(vision, width, 16),
        image=560,  # what the converter writes for pictures of any size
        patch=patch_of(vision, patch),
        merge=vision.integer("spatial_merge_size", default=2, most=64),
    )


def _merger(sketch: Sketch, out: int, *, shifts: bool = True) -> None:
    wide = sketch.width * sketch.merge**2
    sketch.norm("v.post_ln", sketch.width, bias=shifts)
    sketch.linear("mm.0", wide, wide)
    sketch.linear("mm.2", out, wide)


def qwen2(config: Config, hidden: int) -> Sketch:
    """Source: conversion/qwenvl.py, Qwen2VLVisionModel; defaults of Qwen2VLVisionConfig."""
    vision = config.sub("vision_config")
    width = vision.integer("embed_dim", default=1280, most=10**6)
    sketch = _cut(vision, "qwen2vl_merger", width, layers=32, patch=14)
    sketch.patches(bias=False, frames=2)
    for index in range(sketch.layers):
        sketch.block(index, width * vision.integer("mlp_ratio", default=4, most=100))
    _merger(sketch, vision.integer("hidden_size", default=hidden, most=10**6))
    return sketch


def qwen2_5(config: Config, hidden: int) -> Sketch:
    """Source: as `qwen2`; the converter asks for a full layer after every so many with windows."""
    vision = config.sub("vision_config")
    sketch = _cut(vision, "qwen2.5vl_merger", hidden_size(vision, 3584), layers=32, patch=14)
    full = vision.integers("fullatt_block_indexes", default=(7, 15, 23, 31))
    every = full[0] + 1 if full else 0
    if not full or any(later - earlier != every for earlier, later in pairwise(full)):
        raise UnsupportedArchitectureError(
            "llama.cpp takes full layers at equal distances only (fullatt_block_indexes)",
            hint="leave --mmproj out",
        )
    sketch.full_every = every
    sketch.patches(bias=False, frames=2)
    for index in range(sketch.layers):
        inner = vision.integer("intermediate_size", default=3420)
        sketch.block(index, inner, gated=True, shifts=False)
    _merger(sketch, vision.integer("out_hidden_size", default=hidden, most=10**6), shifts=False)
    return sketch


def qwen3(config: Config, hidden: int) -> Sketch:
    """Qwen3-VL: mergers after some layers too. Source: conversion/qwen3vl.py; defaults of Qwen3VLVisionConfig."""
    vision = config.sub("vision_config")
    return _qwen3(vision, hidden, vision.integers("deepstack_visual_indexes", default=(8, 16, 24)))


def qwen3_5(config: Config, hidden: int) -> Sketch:
    """Qwen3.5 and 3.6, with and without experts. Source: conversion/qwen3vl.py; defaults of Qwen3_5VisionConfig."""
    vision = config.sub("vision_config")
    return _qwen3(vision, hidden, vision.integers("deepstack_visual_indexes", default=()))


def _qwen3(vision: Config, hidden: int, deep: tuple[int, ...]) -> Sketch:
    sketch = _cut(vision, "qwen3vl_merger", hidden_size(vision, 1152), layers=27, patch=16)
    sketch.patches(frames=2)
    positions = vision.integer("num_position_embeddings", default=2304)
    sketch.image = isqrt(positions) * sketch.patch
    sketch.positions(positions)
    for index in range(sketch.layers):
        sketch.fused_block(index, vision.integer("intermediate_size", default=4304))
    out, wide = vision.integer("out_hidden_size", default=hidden, most=10**6), sketch.width * sketch.merge**2
    _merger(sketch, out)
    for index in deep:
        if index >= sketch.layers:
            raise UnsupportedArchitectureError(
                f"deepstack_visual_indexes names layer {index:,} of {sketch.layers:,}", hint="correct it"
            )
        sketch.norm(f"v.deepstack.{index}.norm", wide)
        sketch.linear(f"v.deepstack.{index}.fc1", wide, wide)
        sketch.linear(f"v.deepstack.{index}.fc2", out, wide)
    return sketch


def glm4v(config: Config, hidden: int) -> Sketch:
    """GLM-4.1V, GLM-4.5V. Source: conversion/qwen3vl.py, Glm4VVisionModel; defaults of Glm4vVisionConfig."""
    vision = config.sub("vision_config")
    width = hidden_size(vision, 1536)
    sketch = _cut(vision, "glm4v", width, layers=24, patch=14)
    sketch.heads = heads_of(vision, width, 12)
    sketch.image = image_of(vision, 336)
    out = vision.integer("out_hidden_size", default=hidden, most=10**6)
    inner = vision.integer("intermediate_size", default=13_696)
    sketch.patches(frames=2)
    sketch.positions((sketch.image // sketch.patch) ** 2)
    for index in range(sketch.layers):
        layer = sketch.fused_block(index, out, gated=True, bias=False, shifts=False)
        if vision.flag("attention_bias", default=False):
            sketch.shapes[f"{layer}.attn_qkv.bias"] = (3 * width,)
    for name in ("v.norm_embd", "v.post_ln"):
        sketch.norm(name, width, bias=False)
    sketch.add(
        mm__patch_merger__weight=(out, width, sketch.merge, sketch.merge), mm__patch_merger__bias=(out,)
    )
    sketch.linear("mm.model.fc", out, out, bias=False)
    sketch.norm("mm.post_norm", out)
    for name in ("mm.gate", "mm.up"):
        sketch.linear(name, inner, out, bias=False)
    sketch.linear("mm.down", out, inner, bias=False)
    return sketch


def mistral3(config: Config, hidden: int) -> Sketch:
    """Mistral Small 3.1 and what came after it. Source: conversion/llava.py, LlavaVisionModel."""
    vision = section(config, "vision_config", _MISTRAL_3)
    merge = config.integer("spatial_merge_size", default=2, most=64)
    return pixtral(
        vision, hidden, merge=merge, merged=True, bias=config.flag("multimodal_projector_bias", default=False)
    )


def pixtral(vision: Config, hidden: int, *, merge: int, merged: bool, bias: bool) -> Sketch:
    """Pixtral's tower and its two matrices; `merged` patches come with a norm and a matrix. Defaults of PixtralVisionConfig."""
    width = hidden_size(vision, 1024)
    sketch = Sketch(
        kind="pixtral",
        layers=depth_of(vision, 24),
        width=width,
        heads=heads_of(vision, width, 16),
        image=image_of(vision, 1024),
        patch=patch_of(vision, 16),
        merge=merge,
    )
    sketch.patches(bias=False)
    sketch.norm("v.pre_ln", width, bias=False)
    for index in range(sketch.layers):
        inner = vision.integer("intermediate_size", default=4096)
        sketch.block(index, inner, gated=True, bias=False, shifts=False)
    if merged:
        sketch.add(mm__input_norm__weight=(width,), mm__patch_merger__weight=(width, width * merge**2))
    sketch.linear("mm.1", hidden, width, bias=bias)
    sketch.linear("mm.2", hidden, hidden, bias=bias)
    sketch.add(v__token_embd__img_break=(hidden,))
    return sketch


def llama4(config: Config, hidden: int) -> Sketch:
    """
    Source: conversion/llama4.py; defaults of Llama4VisionConfig.

    The norms after attention are called ln2, as in the published files: b11434's converter names them as Gemma 4's.
    """
    vision = config.sub("vision_config")
    width, inner = hidden_size(vision, 768), vision.integer("intermediate_size", default=5632)
    ratio = vision.number("pixel_shuffle_ratio", default=0.5)
    sketch = Sketch(
        kind="llama4",
        layers=depth_of(vision, 34),
        width=width,
        heads=heads_of(vision, width, 16),
        image=image_of(vision, 448),
        patch=patch_of(vision, 14),
        merge=max(1, int(1 / max(ratio, 0.01))),
    )
    sketch.add(v__class_embd=(width,), v__patch_embd__weight=(width, 3 * sketch.patch**2))
    sketch.positions((sketch.image // sketch.patch) ** 2 + 1)
    for name in ("v.pre_ln", "v.post_ln"):
        sketch.norm(name, width)
    for index in range(sketch.layers):
        sketch.block(index, inner)
    middle = vision.integer("projector_input_dim", default=4096)
    sketch.linear("mm.model.mlp.1", middle, inner, bias=False)
    sketch.linear("mm.model.mlp.2", vision.integer("projector_output_dim", default=4096), middle, bias=False)
    sketch.linear("mm.model.fc", hidden, vision.integer("vision_output_dim", default=7680), bias=False)
    return sketch
