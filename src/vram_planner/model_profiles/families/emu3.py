"""Emu3: the language model that reads and writes codes of images; the codes' own network is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families import emu3_text_model

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """Source: transformers models/emu3/modeling_emu3.py: Emu3ForCausalLM has no Emu3VQVAE."""
    return emu3_text_model.build(
        config.sub("text_config"),
        notes=("the image tokeniser (VQ-VAE) that makes and reads the codes is not counted",),
    )
