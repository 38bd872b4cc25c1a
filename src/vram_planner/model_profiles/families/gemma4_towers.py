"""The encoders of Gemma 4: a vision transformer with norms around its blocks, and a Conformer for sound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, Weight
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.towers import tower_weights

if TYPE_CHECKING:
    from vram_planner.model_profiles.config import Config


def vision_tower(vision: Config) -> tuple[Weight, ...]:
    """Source: transformers models/gemma4/modeling_gemma4.py, Gemma4VisionModel; defaults of its config."""
    width = vision.integer("hidden_size", default=768, most=10**6)
    inner = vision.integer("intermediate_size", default=3072)
    depth = vision.integer("num_hidden_layers", default=16)
    head = vision.integer("head_dim", default=64, most=10**5)
    heads = vision.integer("num_attention_heads", default=12, most=10**5)
    keys = vision.integer("num_key_value_heads", default=12, most=10**5)
    patch = vision.integer("patch_size", default=16, most=10**4)
    places = vision.integer("position_embedding_size", default=10_240)
    layer = [(heads * head, width), (keys * head, width), (keys * head, width), (width, heads * head)]
    layer += [(inner, width), (inner, width), (width, inner)]
    vectors = [(head,)] * 2 + [(width,)] * 4
    weights = tower_weights("vision.patch_embedder", (2, places, width), (width, 3 * patch**2))
    weights += tower_weights("vision.layers", *((depth, *shape) for shape in [*layer, *vectors]))
    if vision.flag("use_clipped_linears", default=False):
        weights += _bounds("vision", depth, len(layer))
    if vision.flag("standardize", default=False):
        weights += (
            Weight(name="vision.std_bias", shape=(width,), role=Role.BUFFER),
            Weight(name="vision.std_scale", shape=(width,), role=Role.BUFFER),
        )
    return weights


def audio_tower(audio: Config) -> tuple[Weight, ...]:
    """Source: transformers models/gemma4/modeling_gemma4.py, Gemma4AudioModel; defaults of its config."""
    width = audio.integer("hidden_size", default=1024, most=10**6)
    depth = audio.integer("num_hidden_layers", default=12)
    head = width // audio.integer("num_attention_heads", default=8, most=10**5)
    kernel = audio.integer("conv_kernel_size", default=5, most=10**4)
    first, second = conv_channels(audio, "subsampling_conv_channels")
    out = audio.integer("output_proj_dims", default=1536)
    square, vector = (width, width), (width,)
    blocks = [(4 * width, width), (width, 4 * width), vector, vector] * 2
    attention = [square] * 5 + [(head,)]
    convolution = [(2 * width, width), square, (width, 1, kernel), vector, vector]
    layer = [*blocks, *attention, *convolution, vector, vector, vector]
    weights = tower_weights(
        "audio.stem",
        (first, 1, 3, 3),
        (first,),
        (second, first, 3, 3),
        (second,),
        (width, first // 4 * second),
    )
    weights += tower_weights("audio.layers", *((depth, *shape) for shape in layer))
    if audio.flag("use_clipped_linears", default=True):
        clipped = 4 + 4 + 2  # both feed-forward blocks, attention, the convolution's two
        weights += _bounds("audio", depth, clipped)
    return weights + tower_weights("audio.output_proj", (out, width), (out,))


def conv_channels(audio: Config, key: str) -> tuple[int, int]:
    """Channels of the two convolutions in front of a Conformer."""
    channels = audio.integers(key, default=(128, 32))
    if len(channels) != 2 or 0 in channels:  # noqa: PLR2004  two convolutions
        raise ConfigError(
            f"{audio.where}{key} is no pair of numbers above 0",
            hint="give the channels of the first and the second convolution",
        )
    return channels[0], channels[1]


def _bounds(name: str, depth: int, linears: int) -> tuple[Weight, ...]:
    """Least and greatest input and output of each clipped linear layer: four scalars, buffers."""
    return (Weight(name=f"{name}.bounds", shape=(depth, linears, 4), role=Role.BUFFER),)
