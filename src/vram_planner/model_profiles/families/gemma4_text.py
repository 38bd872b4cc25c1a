"""Gemma 4, the language model: wider heads in full layers, keys as values, borrowed caches, embeddings a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.architecture.attention import BorrowedKv
from vram_planner.architecture.model import Layer
from vram_planner.architecture.weight import Role, Weight, linear
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.common import (
    SANDWICH_NORMS,
    attention,
    decoder,
    experts,
    hidden_size,
    mlp,
    n_layers,
    norms,
    with_window,
)
from vram_planner.model_profiles.families.patterns import FULL, SLIDING, layer_kinds, own_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vram_planner.architecture.attention import FullAttention, Mixer
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_EVERY = 6
_GLOBAL_HEAD_DIM = 512
_PER_LAYER = 256
_PER_LAYER_VOCABULARY = 262_144
# Gemma4TextConfig's own defaults.
DEFAULTS = {
    "vocab_size": 262_144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "sliding_window": 512,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/gemma4/modeling_gemma4.py, Gemma4TextModel."""
    config = config.with_defaults(DEFAULTS)
    return gemma4_decoder(
        config, width=config.integer("hidden_size_per_layer_input", default=_PER_LAYER, least=0)
    )


def gemma4_decoder(
    config: Config, *, width: int, borrowed: int | None = None, extras: tuple[Weight, ...] = (), **rest: Any
) -> Architecture:
    """
    The layers and what is learned beside them; `width` is that of the per-layer embeddings, 0 for none.

    The last `borrowed` layers read the cache of earlier ones (by default `num_kv_shared_layers`). `rest` are
    Architecture's own fields.
    """
    hidden, count = hidden_size(config), n_layers(config)
    kinds = _attention_kinds(config, count)
    if borrowed is None:
        borrowed = borrowed_layers(config, kinds)
    layer_norms = _layer_norms(config, width)
    made: dict[tuple[object, ...], Layer] = {}
    layers = []
    for index, kind in enumerate(kinds):
        borrows, block = index >= count - borrowed, _attention(config, index, kind)
        key = (kind, borrows, block)
        if key not in made:
            made[key] = Layer(
                mixer=_mixer(config, block, kind, borrows=borrows),
                feed_forward=_feed(config, borrows=borrows),
                norms=layer_norms,
            )
        layers.append(made[key])
    return decoder(
        config,
        tuple(layers),
        tied=True,
        capped_logits=config.raw("final_logit_softcapping") is not None,
        embedding_extras=(*per_layer_embeddings(config, hidden, count, width), *extras),
        **rest,
    )


def _attention_kinds(config: Config, count: int) -> tuple[str, ...]:
    """Five sliding layers to one full; the last is full whatever the list says."""
    default = [SLIDING if (index + 1) % _EVERY else FULL for index in range(count)]
    return (*layer_kinds(config, "layer_types", count, (SLIDING, FULL), default)[:-1], FULL)


def borrowed_layers(config: Config, kinds: Sequence[str], default: int = 0) -> int:
    """
    How many layers at the end read the cache of the last earlier layer of their kind.

    Source: kv_sharing_modes of Gemma4TextConfig and Gemma3nTextConfig.
    """
    count = config.integer("num_kv_shared_layers", default=default, least=0)
    if count and set(kinds[: max(0, len(kinds) - count)]) != set(kinds):
        raise ConfigError(
            f"{config.where}num_kv_shared_layers ({count}) leaves no layer of each kind that keeps a cache",
            hint="a layer can only borrow from an earlier one of its kind",
        )
    return count


def _attention(config: Config, index: int, kind: str) -> FullAttention:
    """
    As sliding layers have it, or with `global_head_dim` and the KV heads of full layers.

    A config that transformers 5 wrote says the same in `per_layer_config`.
    """
    bias, full = config.flag("attention_bias", default=False), kind == FULL
    from_keys = full and config.flag("attention_k_eq_v", default=False)
    changed: dict[str, Any] = {}
    if config.raw("per_layer_config") is not None:
        changed = own_settings(config, index, "head_dim", "num_key_value_heads")
    elif full:
        changed["head_dim"] = config.integer("global_head_dim", default=_GLOBAL_HEAD_DIM, most=10**5)
        if from_keys:
            changed["num_key_value_heads"] = config.raw("num_global_key_value_heads")
    own_config = config.replaced({key: value for key, value in changed.items() if value is not None})
    wide = own_config.integer("head_dim", most=10**5)
    return attention(
        own_config, qkv_bias=bias, out_bias=bias, qk_norm=(wide, wide), values_from_keys=from_keys
    )


def _mixer(config: Config, block: FullAttention, kind: str, *, borrows: bool) -> Mixer:
    window = config.integer("sliding_window") if kind == SLIDING else None
    if window is not None and config.raw("use_bidirectional_attention") == "all":
        window = window // 2 + 1
    return BorrowedKv(inner=block, window=window) if borrows else with_window(block, window)


def _feed(config: Config, *, borrows: bool) -> FeedForward:
    """A dense block, twice as wide in borrowing layers if asked for, and experts beside it if asked for."""
    wide = borrows and config.flag("use_double_wide_mlp", default=False)
    dense = mlp(config, intermediate=config.integer("intermediate_size") * (2 if wide else 1))
    if not config.flag("enable_moe_block", default=False):
        return dense
    used = config.integer("top_k_experts", most=10**5)
    return experts(
        config,
        count=("num_experts",),
        width=("moe_intermediate_size",),
        top_k=used,
        shared=dense,
        beside=True,
    )


def _layer_norms(config: Config, width: int) -> tuple[Weight, ...]:
    """Norms around the blocks, the gate that lets the per-layer embedding in, the router's scales, a buffer."""
    hidden = hidden_size(config)
    found = (
        *norms(hidden, *SANDWICH_NORMS),
        Weight(name="layer_scalar", shape=(1,), role=Role.BUFFER),
        *per_layer_gate(hidden, width),
    )
    if not config.flag("enable_moe_block", default=False):
        return found
    names = ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2")
    count = config.integer("num_experts", most=10**5)
    return (
        *found,
        *norms(hidden, *names, "router.scale"),
        Weight(name="router.per_expert_scale", shape=(count,), role=Role.BIAS),
    )


def per_layer_gate(hidden: int, width: int) -> tuple[Weight, ...]:
    """What lets a layer's own embedding of `width` into the residual stream, where there is one."""
    if not width:
        return ()
    return (
        *linear("per_layer_input_gate", width, hidden),
        *linear("per_layer_projection", hidden, width),
        *norms(hidden, "post_per_layer_input_norm"),
    )


def per_layer_embeddings(config: Config, hidden: int, count: int, width: int) -> tuple[Weight, ...]:
    """A second table of `width` numbers a token for each layer, and a projection of the first one to the same."""
    if not width:
        return ()
    rows = config.integer("vocab_size_per_layer_input", default=_PER_LAYER_VOCABULARY, least=0, most=10**8)
    return (
        Weight(
            name="embed_tokens_per_layer",
            shape=(rows, count * width),
            role=Role.EMBEDDING,
            units=max(1, rows),
        ),
        *linear("per_layer_model_projection", count * width, hidden, units=count * width),
        *norms(width, "per_layer_projection_norm"),
    )
