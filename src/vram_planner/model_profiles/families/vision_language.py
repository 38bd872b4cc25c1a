"""What models with eyes or ears share: the language model inside, with the towers and projectors beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from vram_planner.errors import ConfigError, UnsupportedArchitectureError
from vram_planner.model_profiles.families import model_type_of
from vram_planner.model_profiles.families.towers import clip, pixtral, siglip

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

# A thinker's text_config is the deepest that is published.
_DEEPEST: Final = 3
# Defaults of transformers' own config classes: a language model inside another config may be silent on them.
_SIZES: Final = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_LANGUAGE: Final[dict[str, dict[str, Any]]] = {
    "llama": dict(zip(_SIZES, (32_000, 4096, 11_008, 32, 32), strict=True)),
    "mistral": dict(zip(_SIZES, (32_000, 4096, 14_336, 32, 32), strict=True)),
    "qwen2": dict(zip(_SIZES, (151_936, 4096, 22_016, 32, 32), strict=True)),
    "gemma": dict(zip(_SIZES, (256_000, 3072, 24_576, 28, 16), strict=True)),
    "gemma2": {
        **dict(zip(_SIZES, (256_000, 2304, 9216, 26, 8), strict=True)),
        "num_key_value_heads": 4,
    },
    "cohere2": dict(zip(_SIZES, (256_000, 8192, 22_528, 40, 64), strict=True)),
    "deepseek_v3": {
        **dict(zip(_SIZES, (129_280, 7168, 18_432, 61, 128), strict=True)),
        "moe_intermediate_size": 2048,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
    },
}


def section(config: Config, key: str, absent: Mapping[str, Any]) -> Config:
    """The object under a key; where there is none at all, one of the figures that transformers takes then."""
    inner = config.sub(key)
    return inner if config.raw(key) is not None else inner.with_defaults(absent)


def language(config: Config, kind: str, absent: Mapping[str, Any] | None = None) -> Config:
    """The `text_config`, of the family `kind` where it names none, with that family's own defaults."""
    text = section(config, "text_config", absent or {})
    levels, level = 0, text.outer
    while level is not None:
        levels, level = levels + 1, level.outer
    if levels > _DEEPEST:
        raise ConfigError(
            f"{text.where.rstrip('.')[-60:]} is nested too deeply",
            hint="give the config.json of one model",
        )
    if text.raw("model_type", "architectures") is None:
        text = text.with_defaults({"model_type": kind})
    # A null stays: it may mean "none" (q_lora_rank).
    own = _LANGUAGE.get(model_type_of(text), {})
    return text.with_defaults({key: value for key, value in own.items() if not text.has(key)})


def with_towers(
    config: Config,
    inner: Architecture,
    towers: tuple[Weight, ...],
    *,
    tied: bool = False,
    either: bool = False,
) -> Architecture:
    """
    The language model `inner` with `towers` beside it.

    `tied` is what the outer config takes for `tie_word_embeddings` where it is silent. The outer config
    decides in transformers, not the language model's own; with `either` one of the two is enough.
    """
    outer = config.flag("tie_word_embeddings", default=tied)
    return replace(inner, towers=towers, tied_head=outer or (either and inner.tied_head))


def eye(vision: Config, kind: str) -> tuple[Weight, ...]:
    """The tower that a `vision_config` describes, of the family `kind` where it names none."""
    name = vision.text("model_type", default=kind)
    towers = {
        "clip_vision_model": clip,
        "siglip_vision_model": siglip,
        "pixtral": pixtral,
    }
    if name not in towers:
        raise UnsupportedArchitectureError(
            f"the vision tower {name[:60]!r} is not supported",
            hint=f"we know {', '.join(sorted(towers))}; a new one is a function in families/towers.py",
        )
    return towers[name](vision)


def pair(config: Config, key: str, default: int, *, most: int = 10**5) -> tuple[int, int]:
    """Height and width: one number for both, or a list of the two."""
    if not isinstance(config.raw(key), list | tuple):
        side = config.integer(key, default=default, most=most)
        return side, side
    sides = config.integers(key)
    if len(sides) != 2 or not all(0 < side <= most for side in sides):  # noqa: PLR2004  height and width
        raise ConfigError(
            f"{config.where}{key} is no pair of numbers from 1 to {most:,}",
            hint=f"give {key!r} as height and width",
        )
    return sides[0], sides[1]
