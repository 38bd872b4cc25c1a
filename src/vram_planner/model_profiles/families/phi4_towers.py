"""The vision and the audio tower of Phi-4-multimodal, with what joins them to the text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, Weight
from vram_planner.model_profiles.families.towers import siglip, tower_weights

if TYPE_CHECKING:
    from vram_planner.model_profiles.config import Config

_EYE = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "image_size": 448,
    "patch_size": 14,
    "vision_use_head": True,
}
_EAR = {
    "hidden_size": 1024,
    "intermediate_size": 1536,
    "num_blocks": 24,
    "num_attention_heads": 16,
    "ext_pw_out_channel": 1024,
    "depthwise_separable_out_channel": 1024,
    "depthwise_multiplier": 1,
    "kernel_size": 3,
    "input_size": 80,
    "time_reduction": 8,
    "bias_max_distance": 1000,
    "nemo_conv_channels": 1024,
    "downsample_rate": 1,
}


def phi4_eyes(vision: Config, hidden: int) -> tuple[Weight, ...]:
    """SigLIP with its pooling head, a projector of two steps, two separators. Source: Phi4MultimodalImageEmbedding."""
    vision = vision.with_defaults(_EYE)
    width = vision.integer("hidden_size", most=10**6)
    joints = [(hidden, width), (hidden,), (hidden, hidden), (hidden,), (width,), (width,)]
    return siglip(vision) + tower_weights("vision.projector", *joints)


def phi4_ears(audio: Config, hidden: int) -> tuple[Weight, ...]:
    """
    A conformer behind convolutions that thin out the frames, with two projectors.

    Source: Phi4MultimodalAudioModel and Phi4MultimodalAudioEmbedding; the input's mean and scale are buffers.
    """
    audio = audio.with_defaults(_EAR)
    width, bins = audio.integer("hidden_size", most=10**6), audio.integer("input_size")
    up = [(hidden, width * audio.integer("downsample_rate")), (hidden,)]
    joints = [*up, (hidden, hidden), (hidden,)] * 2
    buckets = audio.integer("bias_max_distance") * (1 if audio.flag("bias_symmetric", default=False) else 2)
    depth = audio.integer("num_blocks")
    return (
        Weight(name="audio.mean", shape=(bins,), role=Role.BUFFER),
        Weight(name="audio.scale", shape=(bins,), role=Role.BUFFER),
        *tower_weights("audio.stem", *_subsampling(audio, width)),
        *tower_weights("audio.positions", (buckets, audio.integer("num_attention_heads"))),
        *tower_weights("audio.layers", *((depth, *shape) for shape in _conformer(audio, width))),
        *tower_weights("audio.projector", *joints),
    )


def _subsampling(audio: Config, width: int) -> list[tuple[int, ...]]:
    """Each convolution halves frames and bins, rounding up. Source: Phi4MultimodalAudioNemoConvSubsampling."""
    channels, steps = audio.integer("nemo_conv_channels"), audio.integer("time_reduction").bit_length() - 1
    bins = audio.integer("input_size")
    for _ in range(steps):
        bins = (bins - 1) // 2 + 1
    thinning = [(channels, 1, 3, 3), (channels,)]
    mixing = [(channels, channels, 1, 1), (channels,)]
    return thinning + (thinning + mixing) * (steps - 1) + [(width, channels * bins), (width,)]


def _conformer(audio: Config, width: int) -> list[tuple[int, ...]]:
    """Half an MLP, attention, convolutions, half an MLP. Source: Phi4MultimodalAudioConformerEncoderLayer."""
    inner, wide = audio.integer("intermediate_size"), audio.integer("ext_pw_out_channel")
    spread, narrow = (
        audio.integer("depthwise_multiplier") * width,
        audio.integer("depthwise_separable_out_channel"),
    )
    heads = width // audio.integer("num_attention_heads") * audio.integer("num_attention_heads")
    vector = (width,)
    half = [vector, vector, (2 * inner, width), (2 * inner,), (width, inner), vector]
    attend = [(heads, width), (heads,)] * 3 + [(width, heads), vector]
    convolve = [
        *[vector] * 2,
        *[(2 * wide, width), (2 * wide,), (wide,), (wide,)],
        *[(spread, audio.integer("kernel_size")), (spread,), (narrow, spread), (narrow,)],
        *[(wide, width), (wide,)],
    ]
    return half * 2 + attend + convolve + [vector] * 4
