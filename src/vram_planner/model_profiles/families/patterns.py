"""Layers that differ by a list in the config: one kind a layer, checked, and layers built from parts that repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.architecture.model import Layer
from vram_planner.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

SLIDING, FULL = "sliding_attention", "full_attention"
DENSE, SPARSE = "dense", "sparse"


def layer_kinds(
    config: Config, key: str, count: int, known: tuple[str, ...], default: Sequence[str]
) -> tuple[str, ...]:
    """The kind of each of `count` layers under a key of the config, or the family's `default`; all must be known."""
    kinds = config.texts(key, default=tuple(default))
    if len(kinds) != count:
        raise ConfigError(
            f"{config.where}{key} names {len(kinds)} layers of {count}",
            hint="give one entry for each of num_hidden_layers",
        )
    strange = next((kind for kind in kinds if kind not in known), None)
    if strange is not None:
        raise ConfigError(
            f"{config.where}{key} has {strange[:40]!r}, which this family does not know",
            hint=f"it knows {', '.join(known)}",
        )
    return kinds


def sparse_kinds(config: Config, count: int, *, dense_first: int) -> tuple[str, ...]:
    """
    "dense" or "sparse" for each layer: `mlp_layer_types`, or what follows from the older keys.

    Those are `first_k_dense_replace` (`dense_first` where silent) and `moe_layer_freq`, a number or a list of
    flags. Source: transformers AXK1Config.__post_init__ and Dots3NoteTextConfig.__post_init__.
    """
    first = config.integer("first_k_dense_replace", default=dense_first, least=0)
    often = config.raw("moe_layer_freq")
    if isinstance(often, list):
        flags = config.integers("moe_layer_freq")
        if len(flags) < count:
            raise ConfigError(
                f"{config.where}moe_layer_freq names {len(flags)} layers of {count}",
                hint="give one entry for each of num_hidden_layers, or one number",
            )
        chosen = [bool(flag) for flag in flags[:count]]
    else:
        step = config.integer("moe_layer_freq", default=1)
        chosen = [index % step == 0 for index in range(count)]
    default = [SPARSE if index >= first and chosen[index] else DENSE for index in range(count)]
    return layer_kinds(config, "mlp_layer_types", count, (DENSE, SPARSE), default)


def own_settings(config: Config, index: int, *keys: str) -> dict[str, Any]:
    """
    What `per_layer_config` says of a layer under these keys; transformers 5 writes numbers as text with zeros in front.

    Source: transformers integrations/heterogeneity/configuration_utils.py.
    """
    own = config.sub("per_layer_config").sub(*(f"{index:0{digits}d}" for digits in range(1, 6)))
    return {key: own.raw(key) for key in keys if own.raw(key) is not None}


def build_layers(
    mixers: Sequence[Mixer], feeds: Sequence[FeedForward], layer_norms: tuple[Weight, ...]
) -> tuple[Layer, ...]:
    """One layer for each mixer and block; where both are the same objects, one layer object serves."""
    made: dict[tuple[int, int], Layer] = {}
    for mixer, feed in zip(mixers, feeds, strict=True):
        key = (id(mixer), id(feed))
        if key not in made:
            made[key] = Layer(mixer=mixer, feed_forward=feed, norms=layer_norms)
    return tuple(made[id(mixer), id(feed)] for mixer, feed in zip(mixers, feeds, strict=True))
