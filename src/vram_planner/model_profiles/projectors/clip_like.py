"""Projectors behind towers of the kind of CLIP and SigLIP: LLaVA, Gemma 3 and 4, Idefics 3, SmolVLM, InternVL."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING

from vram_planner.errors import UnsupportedArchitectureError
from vram_planner.model_profiles.families.common import hidden_size
from vram_planner.model_profiles.families.gemma4_towers import conv_channels
from vram_planner.model_profiles.families.vision_language import section
from vram_planner.model_profiles.projectors.own import pixtral
from vram_planner.model_profiles.projectors.sketch import Sketch, depth_of, heads_of, image_of, patch_of

if TYPE_CHECKING:
    from vram_planner.model_profiles.config import Config

_WITHOUT = "leave --mmproj out and keep room for it"
# What LlavaConfig takes where there is no vision_config at all.
_CLIP_LARGE = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 336,
}


def gemma3(config: Config, hidden: int) -> Sketch:
    """Source: conversion/gemma.py, Gemma3VisionModel; defaults of SiglipVisionConfig."""
    vision = config.sub("vision_config")
    width, image, patch = hidden_size(vision, 768), image_of(vision, 224), patch_of(vision, 16)
    side = isqrt(config.integer("mm_tokens_per_image", default=256, most=1 << 20))
    merge = (image // patch) // side
    sketch = Sketch(
        kind="gemma3",
        layers=depth_of(vision, 12),
        width=width,
        heads=heads_of(vision, width, 12),
        image=image,
        patch=patch,
        merge=merge or 4,  # 4 is what clip.cpp takes where the file is silent
        forced={"mm.input_projection.weight": "f16", "v.patch_embd.weight": "f32"},
    )
    _siglip(sketch, vision.integer("intermediate_size", default=3072))
    sketch.add(mm__input_projection__weight=(width, hidden), mm__soft_emb_norm__weight=(width,))
    return sketch


def _siglip(sketch: Sketch, inner: int) -> None:
    sketch.patches()
    sketch.positions((sketch.image // sketch.patch) ** 2)
    sketch.norm("v.post_ln", sketch.width)
    for index in range(sketch.layers):
        sketch.block(index, inner)


def idefics3(config: Config, hidden: int) -> Sketch:
    """Idefics 3 and SmolVLM. Source: conversion/smolvlm.py; defaults of Idefics3VisionConfig."""
    vision = config.sub("vision_config")
    width, merge = hidden_size(vision, 1152), config.integer("scale_factor", default=2, most=64)
    sketch = Sketch(
        kind="idefics3",
        layers=depth_of(vision, 12),
        width=width,
        heads=heads_of(vision, width, 16),
        image=image_of(vision, 224),
        patch=patch_of(vision, 32),
        merge=merge,
        forced={"v.patch_embd.weight": "f32"},
    )
    _siglip(sketch, vision.integer("intermediate_size", default=3072))
    sketch.linear("mm.model.fc", hidden, width * merge**2, bias=False)
    return sketch


def internvl(config: Config, hidden: int) -> Sketch:
    """InternVL 1.5 to 3.5 in their own format. Source: conversion/internvl.py; defaults of InternVisionConfig."""
    vision = config.sub("vision_config")
    width = hidden_size(vision, 3200)
    merge = max(1, int(1 / max(config.number("downsample_ratio", default=0.5), 0.01)))
    sketch = Sketch(
        kind="internvl",
        layers=depth_of(vision, 48),
        width=width,
        heads=heads_of(vision, width, 25),
        image=image_of(vision, 224),
        patch=patch_of(vision, 14),
        merge=merge,
    )
    sketch.patches()
    count = (sketch.image // sketch.patch) ** 2 + 1
    sketch.add(v__class_embd=(1, 1, width), v__position_embd__weight=(1, count, width))
    inner, shifts = vision.integer("intermediate_size", default=12_800), _shifts(vision)
    for index in range(sketch.layers):
        layer = sketch.block(index, inner, shifts=shifts)
        for name in ("ls1", "ls2"):
            sketch.norm(f"{layer}.{name}", width, bias=False)
        for letter in "qk" if vision.flag("qk_normalization", default=True) else "":
            sketch.norm(f"{layer}.attn_{letter}_norm", width, bias=False)
        if not vision.flag("qkv_bias", default=False):
            for letter in "qkv":
                del sketch.shapes[f"{layer}.attn_{letter}.bias"]
    joined = width * merge**2
    sketch.norm("mm.model.mlp.0", joined)
    sketch.linear("mm.model.mlp.1", hidden, joined)
    sketch.linear("mm.model.mlp.3", hidden, hidden)
    return sketch


def _shifts(vision: Config) -> bool:
    return vision.text("norm_type", default="rms_norm") == "layer_norm"


def gemma4(config: Config, hidden: int) -> Sketch:
    """Gemma 4, with an encoder of sound where it has one (E2B, E4B). Source: conversion/gemma.py, Gemma4VisionAudioModel."""
    vision = config.sub("vision_config")
    width = hidden_size(vision, 768)
    head, heads = vision.integer("head_dim", default=64, most=10**4), heads_of(vision, width, 12)
    if head * heads != width or vision.integer("num_key_value_heads", default=heads) != heads:
        raise UnsupportedArchitectureError(
            "a Gemma 4 tower whose heads do not make up its width is not modelled", hint=_WITHOUT
        )
    sketch = Sketch(
        kind="gemma4v",
        layers=depth_of(vision, 16),
        width=width,
        heads=heads,
        image=224,
        patch=patch_of(vision, 16),
        merge=3,
    )
    sketch.patches(bias=False)
    sketch.add(v__position_embd__weight=(2, vision.integer("position_embedding_size", default=10_240), width))
    if vision.flag("standardize", default=False):
        sketch.add(v__std_bias=(width,), v__std_scale=(width,))
    inner = vision.integer("intermediate_size", default=3072)
    for index in range(sketch.layers):
        layer = sketch.block(index, inner, gated=True, bias=False, shifts=False)
        for letter in "qk":
            sketch.norm(f"{layer}.attn_{letter}_norm", head, bias=False)
        for name in ("attn_post_norm", "ffn_post_norm"):
            sketch.norm(f"{layer}.{name}", width, bias=False)
    sketch.linear("mm.input_projection", hidden, width, bias=False)
    if config.raw("audio_config") is not None:
        sketch.sound = _gemma4_sound(config.sub("audio_config"), hidden)
        kernel = "v.patch_embd.weight"  # clip.cpp loads it a second time beside the encoder of sound
        sketch.sound.shapes[kernel] = sketch.shapes[kernel]
    return sketch


def _gemma4_sound(audio: Config, hidden: int) -> Sketch:
    """A Conformer over 128 bins; bounds of its matrices are no tensors of a buffer. Defaults of Gemma4AudioConfig."""
    width = hidden_size(audio, 1024)
    out = audio.integer("output_proj_dims", default=1536)
    first, second = conv_channels(audio, "subsampling_conv_channels")
    sketch = Sketch(
        kind="gemma4a",
        layers=depth_of(audio, 12),
        width=width,
        heads=heads_of(audio, width, 8),
        image=0,
        patch=128,
        merge=1,
        forced={"a.input_projection.weight": "f32"},
    )
    for index, shape in enumerate(((first, 1, 3, 3), (second, first, 3, 3))):
        sketch.shapes[f"a.conv1d.{index}.weight"] = shape
        sketch.norm(f"a.conv1d.{index}.norm", shape[0], bias=False)
    sketch.linear("a.input_projection", width, second * sketch.patch // 4, bias=False)
    sketch.linear("a.pre_encode.out", out, width)
    sketch.linear("mm.a.input_projection", hidden, out, bias=False)
    kernel = audio.integer("conv_kernel_size", default=5, most=10**4)
    for index in range(sketch.layers):
        layer = f"a.blk.{index}"
        for letter in ("q", "k", "v", "out", "k_rel"):
            sketch.linear(f"{layer}.attn_{letter}", width, width, bias=False)
        for which in ("", "_1"):
            sketch.linear(f"{layer}.ffn_up{which}", 4 * width, width, bias=False)
            sketch.linear(f"{layer}.ffn_down{which}", width, 4 * width, bias=False)
            for name in (f"ffn_norm{which}", f"ffn_post_norm{which}"):
                sketch.norm(f"{layer}.{name}", width, bias=False)
        for name in ("conv_norm", "norm_conv", "attn_pre_norm", "attn_post_norm", "ln2"):
            sketch.norm(f"{layer}.{name}", width, bias=False)
        sketch.norm(f"{layer}.per_dim_scale", width // sketch.heads, bias=False)
        sketch.linear(f"{layer}.conv_pw1", 2 * width, width, bias=False)
        sketch.linear(f"{layer}.conv_pw2", width, width, bias=False)
        sketch.shapes[f"{layer}.conv_dw.weight"] = (width, kernel)
    return sketch


def llava(config: Config, hidden: int) -> Sketch:
    """
    LLaVA 1.5, or Pixtral's tower under the same name.

    CLIP's tower is written by a script of its own, in f16 or f32, up to the layer whose result is taken.
    Source: tools/mtmd/legacy-models/convert_image_encoder_to_gguf.py.
    """
    vision = section(config, "vision_config", _CLIP_LARGE)
    if vision.text("model_type", default="clip_vision_model") == "pixtral":
        biased = config.flag("multimodal_projector_bias", default=True)
        return pixtral(vision, hidden, merge=1, merged=False, bias=biased)
    if vision.text("model_type", default="clip_vision_model") != "clip_vision_model":
        raise UnsupportedArchitectureError(
            "a LLaVA on another tower than CLIP or Pixtral is not modelled", hint=_WITHOUT
        )
    width, depth = hidden_size(vision, 768), depth_of(vision, 12)
    taken = config.raw("vision_feature_layer")
    taken = -2 if taken is None else taken
    if isinstance(taken, bool) or not isinstance(taken, int) or not 0 < taken % (depth + 1) <= depth:
        raise UnsupportedArchitectureError(
            "a LLaVA that takes several layers of its tower is not modelled", hint=_WITHOUT
        )
    sketch = Sketch(
        kind="mlp",
        layers=taken % (depth + 1),
        width=width,
        heads=heads_of(vision, width, 12),
        image=image_of(vision, 224),
        patch=patch_of(vision, 32),
        merge=1,
        types=("f16", "f32"),
        forced=dict.fromkeys(("v.patch_embd.weight", "mm.0.weight", "mm.2.weight"), "f16"),
        plain=("v.position_embd.weight",),
    )
    sketch.patches(bias=False)
    sketch.positions((sketch.image // sketch.patch) ** 2 + 1)
    sketch.add(v__class_embd=(width,))
    sketch.norm("v.pre_ln", width)
    for index in range(sketch.layers):
        layer, inner = f"v.blk.{index}", vision.integer("intermediate_size", default=3072)
        sketch.block(index, inner)
        sketch.linear(f"{layer}.ffn_down", inner, width)  # that script has the two names the other way round
        sketch.linear(f"{layer}.ffn_up", width, inner)
    sketch.linear("mm.0", hidden, width)
    sketch.linear("mm.2", hidden, hidden)
    return sketch
