"""MOSS Transcribe-Diarize: a Qwen 3 of 0.6B behind Whisper's encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.model_profiles.families import qwen3
from vram_planner.model_profiles.families.common import hidden_size
from vram_planner.model_profiles.families.towers import tower_weights
from vram_planner.model_profiles.families.vit import block_shapes, in_each

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

_TEXT = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 151_936,
    "max_position_embeddings": 131_072,
}
_EAR = 1024


def build(config: Config) -> Architecture:
    """
    Source: transformers models/moss_transcribe_diarize/modeling_moss_transcribe_diarize.py; its config's defaults.

    The head is tied by the outer config, whatever the inner one says.
    """
    text, ears = config.sub("text_config").with_defaults(_TEXT), config.sub("audio_config")
    width = hidden_size(text)
    merged = hidden_size(ears, _EAR) * config.integer("audio_merge_size", default=4, most=1000)
    bias = [(width,), (width,)] if config.flag("projector_bias", default=True) else []
    projector = tower_weights("projector", (width, merged), (width, width), (width,), (width,), *bias)
    return replace(
        qwen3.build(text),
        model_type="moss_transcribe_diarize",
        tied_head=config.flag("tie_word_embeddings", default=True),
        towers=(*whisper(ears), *projector),
    )


def whisper(ears: Config) -> tuple[Weight, ...]:
    """Whisper's encoder: no bias on k. Source: WhisperEncoder; defaults of MossTranscribeDiarizeAudioConfig."""
    width = ears.integer("hidden_size", "d_model", default=_EAR, most=10**6)
    inner = ears.integer("intermediate_size", "encoder_ffn_dim", default=4096)
    depth = ears.integer("num_hidden_layers", "encoder_layers", default=24)
    bins = ears.integer("num_mel_bins", default=80, most=10**4)
    rows = ears.integer("max_source_positions", default=1500)
    stem = [(width, bins, 3), (width,), (width, width, 3), (width,), (rows, width), (width,), (width,)]
    layer = block_shapes(width, inner)
    layer.remove((width,))
    return tower_weights("audio.stem", *stem) + in_each("audio.layers", depth, layer)
