"""dots3 Note: the language model; its encoders of images and sound are not part of the causal language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families import dots3_note_text

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """Source: transformers models/dots3_note; published configs keep the text model's figures at the top."""
    text = config.sub("text_config") if config.raw("text_config") is not None else config
    return dots3_note_text.build(text)
