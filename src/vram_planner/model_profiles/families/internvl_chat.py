"""InternVL 1.5, 2 and 2.5: InternViT and a projector before InternLM 2, Phi-3, Qwen 2 or Llama."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.errors import UnsupportedArchitectureError
from vram_planner.model_profiles.families import build as build_language
from vram_planner.model_profiles.families import model_type_of
from vram_planner.model_profiles.families.common import hidden_size
from vram_planner.model_profiles.families.towers import tower_weights
from vram_planner.model_profiles.families.vit import intern_vit

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_LANGUAGES = frozenset({"internlm2", "llama", "phi3", "qwen2", "qwen3", "qwen3_moe"})


def build(config: Config) -> Architecture:
    """
    Source: OpenGVLab/InternVL modeling_internvl_chat.py (`mlp1`), modeling_intern_vit.py.

    Neighbouring patches are joined, by `downsample_ratio` in each direction, before the projector.
    """
    inside, vision = config.sub("llm_config"), config.sub("vision_config")
    name = model_type_of(inside)
    if name not in _LANGUAGES:
        raise UnsupportedArchitectureError(
            f"an InternVL on {name[:40]!r} is not supported", hint=f"we know {', '.join(sorted(_LANGUAGES))}"
        )
    text = build_language(inside)
    ratio = config.number("downsample_ratio", default=0.5)
    joined = hidden_size(vision, 3200) * max(1, int(1 / max(ratio, 0.01)) ** 2)
    width = text.hidden
    between = [(joined,), (joined,), (width, joined), (width,), (width, width), (width,)]
    return replace(text, towers=(*intern_vit(vision), *tower_weights("mlp1", *between)))
