"""CodeGen 350M to 16B: GPT-J with one matrix for q, k and v."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families import gptj

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """Source: transformers models/codegen/modeling_codegen.py; CodeGenConfig has GPT-J's defaults."""
    return gptj.build_parallel(config, fused_qkv=True)
