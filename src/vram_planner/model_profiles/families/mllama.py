"""Llama 3.2 Vision: every fifth layer looks at the image instead of the text."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.cross import CrossAttention
from vram_planner.architecture.model import Layer
from vram_planner.architecture.weight import Role, Weight
from vram_planner.model_profiles.families.common import RMS_NORMS, attention, decoder, mlp, n_layers, norms
from vram_planner.model_profiles.families.towers import TEXT_ONLY, sees, tower_weights

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
}
_LOOKING = (3, 8, 13, 18, 23, 28, 33, 38)
_IMAGE_ROWS = 8
_EYE = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_global_layers": 8,
    "vision_output_dim": 7680,
    "max_num_tiles": 4,
}
_IMAGE, _PATCH, _SHAPES = 448, 14, 8


def build(config: Config) -> Architecture:
    """
    Source: transformers models/mllama/modeling_mllama.py.

    The vision tower is counted where `architectures` names MllamaForConditionalGeneration; AutoModelForCausalLM
    builds the text model alone. Its head is never tied: the embedding has eight rows more.
    """
    vision = config.sub("vision_config").with_defaults(_EYE)
    text = config.sub("text_config").with_defaults({**_DEFAULTS, "model_type": "mllama_text_model"})
    block, seen = attention(text), vision.integer("max_num_tiles", most=10**4) * _patches(vision)
    crossing = CrossAttention(inner=replace(block, qk_norm=(block.head_dim, block.head_dim)), tokens=seen)
    gates = tuple(Weight(name=f"{name}_gate", shape=(1,), role=Role.NORM) for name in ("attention", "mlp"))
    feed, around = mlp(text), norms(block.hidden, *RMS_NORMS)
    reading = Layer(mixer=block, feed_forward=feed, norms=around)
    looking = Layer(mixer=crossing, feed_forward=feed, norms=(*around, *gates))
    at = frozenset(text.integers("cross_attention_layers", default=_LOOKING))
    layers = tuple(looking if index in at else reading for index in range(n_layers(text)))
    more = Weight(name="embed_tokens.image", shape=(_IMAGE_ROWS, block.hidden), role=Role.NORM)
    eyes = sees(config)
    built = decoder(
        text,
        layers,
        embedding_extras=(more,),
        towers=_tower(vision, block.hidden) if eyes else (),
        notes=() if eyes else (TEXT_ONLY,),
    )
    return replace(built, tied_head=False)


def _patches(vision: Config) -> int:
    """Patches of one tile with the class token."""
    patch = vision.integer("patch_size", default=_PATCH, most=10**4)
    return (vision.integer("image_size", default=_IMAGE, most=10**5) // patch) ** 2 + 1


def _tower(vision: Config, hidden: int) -> tuple[Weight, ...]:
    """Source: MllamaVisionModel and the projector of MllamaModel; defaults of MllamaVisionConfig."""
    width, inner = vision.integer("hidden_size", most=10**6), vision.integer("intermediate_size")
    patch, channels = (
        vision.integer("patch_size", default=_PATCH, most=10**4),
        vision.integer("num_channels", default=3),
    )
    tiles, patches = vision.integer("max_num_tiles", most=10**4), _patches(vision)
    shapes = vision.raw("supported_aspect_ratios")
    ratios = (len(shapes) if isinstance(shapes, list | tuple) else _SHAPES) + 1
    vector, square = (width,), (width, width)
    positions = [(1,), (patches, width), (ratios, tiles * patches * width)]
    per_tile = [(ratios, tiles * width), (1,)] * 2
    stem = [(width, channels, patch, patch), vector, *positions, *per_tile, *[vector] * 4]
    layer = [square] * 4 + [(inner, width), (inner,), (width, inner), vector] + [vector] * 4
    local, whole = vision.integer("num_hidden_layers"), vision.integer("num_global_layers")
    projector = tower_weights("projector", (hidden, vision.integer("vision_output_dim")), (hidden,))
    return (
        *tower_weights("vision.stem", *stem),
        *tower_weights("vision.layers", *((local + whole, *shape) for shape in layer)),
        *tower_weights("vision.gates", (whole,), (whole,)),
        *projector,
    )
