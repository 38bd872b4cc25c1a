"""Qwen's vision transformers and audio encoders, which several families put beside their language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vram_planner.model_profiles.families.towers import encoder, tower_weights

if TYPE_CHECKING:
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config


class Patches(NamedTuple):
    """How an image or a film is cut: the kernel of the patch embedding, and patches that become one token."""

    kernel: tuple[int, int, int, int]
    merged: int


def patches(vision: Config, patch: int) -> Patches:
    """As the config states it; `patch` is the family's default side."""
    side = vision.integer("patch_size", default=patch, most=10**4)
    return Patches(
        kernel=(
            vision.integer("in_channels", default=3, most=10**3),
            vision.integer("temporal_patch_size", default=2, most=10**3),
            side,
            side,
        ),
        merged=vision.integer("spatial_merge_size", default=2, most=64) ** 2,
    )


def qwen2_vision(vision: Config) -> tuple[Weight, ...]:
    """
    Qwen 2 VL: CLIP's layers on three-dimensional patches, and a merger of two linear layers.

    Source: transformers models/qwen2_vl/modeling_qwen2_vl.py, Qwen2VisionTransformerPretrainedModel.
    """
    cut = patches(vision, 14)
    width = vision.integer("embed_dim", default=1280, most=10**6)
    out = vision.integer("hidden_size", default=3584, most=10**6)
    inner = width * vision.integer("mlp_ratio", default=4, most=100)
    wide = width * cut.merged
    return (
        *tower_weights("vision.stem", (width, *cut.kernel)),
        *encoder(vision.integer("depth", "num_hidden_layers", default=32), width, inner),
        *tower_weights("vision.merger", (width,), (width,), (wide, wide), (wide,), (out, wide), (out,)),
    )


def qwen2_5_vision(vision: Config) -> tuple[Weight, ...]:
    """
    Qwen 2.5 VL and Omni: RMS norms and a gated MLP with biases.

    Source: transformers models/qwen2_5_vl/modeling_qwen2_5_vl.py, Qwen2_5_VisionTransformerPretrainedModel.
    """
    cut = patches(vision, 14)
    width = vision.integer("hidden_size", default=3584, most=10**6)
    inner = vision.integer("intermediate_size", default=3420)
    out = vision.integer("out_hidden_size", default=3584, most=10**6)
    depth = vision.integer("depth", "num_hidden_layers", default=32)
    attention = [(width, width), (width,)] * 4
    feed = [(inner, width), (inner,)] * 2 + [(width, inner), (width,)]
    wide = width * cut.merged
    return (
        *tower_weights("vision.stem", (width, *cut.kernel)),
        *tower_weights("vision.layers", *((depth, *shape) for shape in [(width,)] * 2 + attention + feed)),
        *tower_weights("vision.merger", (width,), (wide, wide), (wide,), (out, wide), (out,)),
    )


def qwen3_vision(vision: Config) -> tuple[Weight, ...]:
    """
    Qwen 3 VL: learned positions, and a merger for each layer whose features enter the language model (DeepStack).

    Source: transformers models/qwen3_vl/modeling_qwen3_vl.py, Qwen3VLVisionModel.
    """
    cut = patches(vision, 16)
    width = vision.integer("hidden_size", default=1152, most=10**6)
    inner = vision.integer("intermediate_size", default=4304)
    out = vision.integer("out_hidden_size", default=3584, most=10**6)
    positions = vision.integer("num_position_embeddings", default=2304)
    deep = len(vision.integers("deepstack_visual_indexes", default=(8, 16, 24)))
    wide = width * cut.merged
    linear = [(wide, wide), (wide,), (out, wide), (out,)]
    mergers = ((deep, *shape) for shape in [(wide,), (wide,), *linear])
    return (
        *tower_weights("vision.stem", (width, *cut.kernel), (width,), (positions, width)),
        *encoder(vision.integer("depth", "num_hidden_layers", default=27), width, inner),
        *tower_weights("vision.merger", (width,), (width,), *linear),
        *tower_weights("vision.deepstack", *mergers),
    )


def whisper(audio: Config, *tail: tuple[int, ...]) -> tuple[Weight, ...]:
    """
    Whisper's encoder: two convolutions, layers without a bias on the keys, a norm; `tail` are the family's tensors.

    Source: transformers models/qwen2_audio/modeling_qwen2_audio.py, Qwen2AudioEncoder.
    """
    width = audio.integer("d_model", default=1280, most=10**6)
    inner = audio.integer("encoder_ffn_dim", default=5120)
    depth = audio.integer("encoder_layers", default=32)
    bins = audio.integer("num_mel_bins", default=128, most=10**5)
    square, vector = (width, width), (width,)
    layer = [square] * 4 + [vector] * 7 + [(inner, width), (inner,), (width, inner), vector]
    return (
        *tower_weights("audio.stem", (width, bins, 3), vector, (width, width, 3), vector),
        *tower_weights("audio.layers", *((depth, *shape) for shape in layer)),
        *tower_weights("audio.tail", vector, vector, *tail),
    )
