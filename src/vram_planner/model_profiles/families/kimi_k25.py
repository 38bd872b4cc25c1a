"""Kimi K2.5 and later: Kimi K2 behind MoonViT."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families import build as build_inner
from vram_planner.model_profiles.families.towers import encoder, tower_weights
from vram_planner.model_profiles.families.vision_language import language, with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

_MERGED = (2, 2)


def build(config: Config) -> Architecture:
    """Source: transformers models/kimi_k25/modeling_kimi_k25.py; the repository's own config writes vt_ before keys."""
    inner, vision = build_inner(language(config, "deepseek_v3")), config.sub("vision_config")
    return with_towers(config, inner, moon_vit(config, vision, inner.hidden), tied=True)


def moon_vit(config: Config, vision: Config, hidden: int) -> tuple[Weight, ...]:
    """A vision transformer with a learned grid of positions, and a projector behind a norm of each patch."""
    width = vision.integer("hidden_size", "vt_hidden_size", default=1152, most=10**6)
    inner = vision.integer("intermediate_size", "vt_intermediate_size", default=4304)
    depth = vision.integer("num_hidden_layers", "vt_num_hidden_layers", default=27)
    patch = vision.integer("patch_size", default=14, most=10**4)
    high = vision.integer("pos_emb_height", "init_pos_emb_height", default=64, most=10**5)
    wide = vision.integer("pos_emb_width", "init_pos_emb_width", default=64, most=10**5)
    merged = vision.integers("merge_kernel_size", default=_MERGED)
    if not 0 < prod(merged) <= 64**2:
        raise ConfigError(
            "vision_config.merge_kernel_size is no pair of small numbers", hint="give it as [2, 2]"
        )
    into, normed = width * prod(merged), config.integer("projection_hidden_size", default=width, most=10**6)
    return (
        *tower_weights("vision.stem", (width, 3, patch, patch), (width,), (high, wide, width)),
        *encoder(depth, width, inner),
        *tower_weights("vision.norm", (width,), (width,)),
        *tower_weights("projector", (normed,), (normed,), (into, into), (into,), (hidden, into), (hidden,)),
    )
