"""Muse Glimmer: three sliding layers to one full, a gate on each head's output, a vision tower."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.weight import linear
from vram_planner.model_profiles.families.common import (
    SANDWICH_NORMS,
    attention,
    decoder,
    mlp,
    n_layers,
    norms,
    stack,
    unless_null,
)
from vram_planner.model_profiles.families.patterns import FULL, SLIDING, layer_kinds
from vram_planner.model_profiles.families.towers import encoder, tower_weights

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 202_048,
    "hidden_size": 6656,
    "intermediate_size": 19_968,
    "num_hidden_layers": 52,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "max_position_embeddings": 131_072,
    "model_type": "muse_glimmer_text",
}
_HEAD_DIM = 128
_WINDOW, _EVERY = 2048, 4
_EYE = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 50}
_PATCH, _FRAMES, _SIDE, _OUT, _JOINT = 14, 2, 32, 6144, 4096


def build(config: Config) -> Architecture:
    """Source: transformers models/muse_glimmer/modeling_muse_glimmer.py; the last layer is full, counted from behind."""
    text = config.sub("text_config").with_defaults(_DEFAULTS)
    bias, count = text.flag("attention_bias", default=False), n_layers(text)
    bare = attention(text, head_dim=_HEAD_DIM, qkv_bias=bias, out_bias=bias)
    gate = linear("gate_proj", bare.n_heads * bare.head_dim, bare.hidden, units=bare.n_heads)
    window = text.optional_integer("sliding_window") or unless_null(text, "sliding_window", _WINDOW)
    usual = [SLIDING if (count - 1 - index) % _EVERY else FULL for index in range(count)]
    kinds = layer_kinds(text, "layer_types", count, (FULL, SLIDING), usual)
    widths = tuple(window if kind == SLIDING else None for kind in kinds)
    layers = stack(replace(bare, extras=gate), widths, mlp(text), norms(bare.hidden, *SANDWICH_NORMS))
    joint = config.integer("projector_hidden_size", default=_JOINT)
    out = config.integer("out_hidden_size", default=_OUT)
    projector = tower_weights("projector", (joint, out), (joint, joint), (bare.hidden, joint))
    towers = (*_tower(config.sub("vision_config").with_defaults(_EYE)), *projector)
    return decoder(text, layers, towers=towers, capped_logits=True)


def _tower(vision: Config) -> tuple[Weight, ...]:
    """Source: MuseGlimmerVisionModel."""
    width, inner = vision.integer("hidden_size", most=10**6), vision.integer("intermediate_size")
    patch = vision.integer("patch_size", default=_PATCH, most=10**4)
    frames = vision.integer("patch_temporal", default=_FRAMES, most=10**3)
    places = vision.integer("pos_emb_height", default=_SIDE) * vision.integer("pos_emb_width", default=_SIDE)
    stem = tower_weights("vision.stem", (width, frames * 3 * patch**2), (places, width), *[(width,)] * 4)
    return stem + encoder(vision.integer("num_hidden_layers"), width, inner)
