"""Gemma 3n with eyes and ears (E2B, E4B): the text model, MobileNet-V5, a Conformer, an embedder for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture.weight import Role, Weight
from vram_planner.errors import UnsupportedArchitectureError
from vram_planner.model_profiles.families import gemma3n_text
from vram_planner.model_profiles.families.common import hidden_size
from vram_planner.model_profiles.families.gemma4_towers import conv_channels
from vram_planner.model_profiles.families.towers import tower_weights
from vram_planner.model_profiles.families.vision_language import language, with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_TEXT_HIDDEN = 2048
# Parameters of timm 1.0.31's model without its classifier: a network of its own, which the config only names.
_VISION: Final = {"mobilenetv5_300m_enc": 294_126_912}


def build(config: Config) -> Architecture:
    """
    Source: transformers models/gemma3n/modeling_gemma3n.py, Gemma3nModel.

    Checkpoints also hold key and value projections of the layers that borrow their cache; they are never loaded.
    """
    text = language(config, "gemma3n_text")
    vision, audio = config.sub("vision_config"), config.sub("audio_config")
    width = hidden_size(text, _TEXT_HIDDEN)
    towers = (
        *_vision_tower(vision),
        *_audio_tower(audio),
        *_embedder("embed_vision", vision, hidden_size(vision, 2048), width),
        *_embedder("embed_audio", audio, hidden_size(audio, 1536), width),
    )
    return with_towers(config, gemma3n_text.build(text), towers, tied=True)


def _vision_tower(vision: Config) -> tuple[Weight, ...]:
    name = vision.text("architecture", default="mobilenetv5_300m_enc")
    if name not in _VISION:
        raise UnsupportedArchitectureError(
            f"Gemma 3n with the vision network {name[:40]!r} is not supported",
            hint=f"known: {', '.join(_VISION)}; its tensors are timm's, not in the config",
        )
    return (Weight(name=f"vision.{name}", shape=(_VISION[name],), role=Role.TOWER),)


def _embedder(name: str, eye: Config, inner: int, width: int) -> tuple[Weight, ...]:
    """A small vocabulary of its own, two norms and a projection. Source: Gemma3nMultimodalEmbedder."""
    rows = eye.integer("vocab_size", default=128)
    return tower_weights(name, (rows, inner), (inner,), (inner,), (width, inner))


def _audio_tower(audio: Config) -> tuple[Weight, ...]:
    """Source: Gemma3nAudioEncoder; defaults of Gemma3nAudioConfig."""
    width = audio.integer("hidden_size", default=1536, most=10**6)
    depth = audio.integer("conf_num_hidden_layers", default=12)
    head = width // audio.integer("conf_num_attention_heads", default=8, most=10**5)
    kernel = audio.integer("conf_conv_kernel_size", default=5, most=10**4)
    first, second = conv_channels(audio, "sscp_conv_channel_size")
    # Kernels of 3 × 3 with strides of 2 and one column of padding: the only ones published.
    bands = audio.integer("input_feat_size", default=128)
    for _ in range(2):
        bands = (bands + 2 - 3) // 2 + 1
    square, vector = (width, width), (width,)
    blocks = [vector, (4 * width, width), (width, 4 * width), vector] * 2
    attention = [vector, (head,), *[square] * 5, vector]
    convolution = [vector, (2 * width, width), (width, 1, kernel), vector, square]
    layer = [*blocks, *attention, *convolution, vector]
    stem = [(first, 1, 3, 3), (first,), (second, first, 3, 3), (second,), (width, second * bands)]
    return tower_weights("audio.stem", *stem) + tower_weights(
        "audio.layers", *((depth, *shape) for shape in layer)
    )
