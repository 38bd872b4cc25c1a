"""Phi-3-vision and Phi-3.5-vision: Phi-3 behind CLIP's large tower and a projector."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.errors import UnsupportedArchitectureError
from vram_planner.model_profiles.config import Config
from vram_planner.model_profiles.families import phi3
from vram_planner.model_profiles.families.towers import clip, tower_weights

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture

# openai/clip-vit-large-patch14-336, the only tower that was published with it.
CLIP_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "image_size": 336,
}


def build(config: Config) -> Architecture:
    """
    Source: microsoft/Phi-3-vision-128k-instruct modeling_phi3_v.py; read as in vLLM's models/phi3v.py.

    Four patches are joined before the projector; two learned tensors of their width part the views.
    """
    name = config.sub("img_processor").text("model_name", default="openai/clip-vit-large-patch14-336")
    if "clip-vit-large-patch14-336" not in name:
        raise UnsupportedArchitectureError(
            f"the image tower {name[:60]!r} is not known", hint="we know openai/clip-vit-large-patch14-336"
        )
    text = phi3.build(config)
    joined = 4 * CLIP_LARGE["hidden_size"]
    width = text.hidden
    between = tower_weights("projector", (width, joined), (width,), (width, width), (width,))
    parting = tower_weights("separators", (1, 1, joined), (1, 1, 1, joined))
    return replace(text, towers=(*clip(Config(CLIP_LARGE)), *between, *parting))
