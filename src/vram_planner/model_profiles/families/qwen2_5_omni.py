"""Qwen 2.5 Omni: the thinker, which reads, sees and hears. Its talker, which speaks, is left out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vram_planner.model_profiles.families import qwen2
from vram_planner.model_profiles.families.towers_qwen import qwen2_5_vision, whisper
from vram_planner.model_profiles.families.vision_language import with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_TEXT: dict[str, Any] = {
    "vocab_size": 152_064,
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "max_position_embeddings": 32_768,
}


def build(config: Config) -> Architecture:
    """
    Source: transformers models/qwen2_5_omni/modeling_qwen2_5_omni.py, Qwen2_5OmniThinkerForConditionalGeneration.

    The talker and the vocoder (`talker_config`, `token2wav_config`) are another model in the same checkpoint,
    which servers of text do not load.
    """
    whole = config.raw("model_type") == "qwen2_5_omni"
    thinker = config.sub("thinker_config") if whole else config
    text, audio = thinker.sub("text_config"), thinker.sub("audio_config")
    if text.raw("num_attention_heads") is None:
        text = text.with_defaults({"num_key_value_heads": 4})
    width = audio.integer("d_model", default=1280, most=10**6)
    out = audio.integer("output_dim", default=3584, most=10**6)
    ears = whisper(audio, (2, out), (out, width), (out,))
    towers = (*qwen2_5_vision(thinker.sub("vision_config")), *ears)
    model = with_towers(thinker, qwen2.build(text.with_defaults(_TEXT)), towers)
    if not whole:
        return model
    return replace(model, notes=(*model.notes, "the thinker alone: the talker and the vocoder are left out"))
