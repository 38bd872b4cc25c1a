"""Gemma 3n, the language model: several residual streams, embeddings a layer, borrowed caches at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.attention import BorrowedKv
from vram_planner.architecture.feed_forward import DenseMLP
from vram_planner.architecture.model import Layer
from vram_planner.architecture.weight import Role, Weight, linear
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.common import (
    SANDWICH_NORMS,
    attention,
    decoder,
    n_layers,
    norms,
    with_window,
)
from vram_planner.model_profiles.families.gemma4_text import (
    borrowed_layers,
    per_layer_embeddings,
    per_layer_gate,
)
from vram_planner.model_profiles.families.patterns import FULL, SLIDING, layer_kinds

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_EVERY = 5
_BORROWED = 15
# Gemma3nTextConfig's own defaults.
_DEFAULTS = {
    "vocab_size": 262_400,
    "hidden_size": 2048,
    "intermediate_size": 16_384,
    "num_hidden_layers": 35,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "max_position_embeddings": 32_768,
    "sliding_window": 512,
    "hidden_size_per_layer_input": 256,
    "altup_num_inputs": 4,
    "laurel_rank": 64,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/gemma3n/modeling_gemma3n.py, Gemma3nTextModel."""
    config = config.with_defaults(_DEFAULTS)
    count, bias = n_layers(config), config.flag("attention_bias", default=False)
    head = config.integer("head_dim", most=10**5)
    block = attention(config, qkv_bias=bias, out_bias=bias, qk_norm=(head, head))
    kinds = layer_kinds(
        config,
        "layer_types",
        count,
        (SLIDING, FULL),
        [SLIDING if (index + 1) % _EVERY else FULL for index in range(count)],
    )
    window = config.integer("sliding_window")
    borrowed = borrowed_layers(config, kinds, default=_BORROWED)
    width, streams = (
        config.integer("hidden_size_per_layer_input"),
        config.integer("altup_num_inputs", most=100),
    )
    layer_norms = _layer_norms(config, block.hidden, width, streams)
    made: dict[tuple[object, ...], Layer] = {}
    layers = []
    for index, (kind, inner) in enumerate(zip(kinds, _intermediates(config, count), strict=True)):
        bound = window if kind == SLIDING else None
        borrows = index >= count - borrowed
        key = (kind, borrows, inner)
        if key not in made:
            mixer = BorrowedKv(inner=block, window=bound) if borrows else with_window(block, bound)
            feed = DenseMLP(hidden=block.hidden, intermediate=inner)
            made[key] = Layer(mixer=mixer, feed_forward=feed, norms=layer_norms)
        layers.append(made[key])
    return decoder(
        config,
        tuple(layers),
        tied=True,
        capped_logits=True,
        embedding_extras=(
            *per_layer_embeddings(config, block.hidden, count, width),
            *_stream_projections(block.hidden, streams),
        ),
    )


def _intermediates(config: Config, count: int) -> tuple[int, ...]:
    """One width for all layers, or one for each."""
    if not isinstance(config.raw("intermediate_size"), list):
        return (config.integer("intermediate_size"),) * count
    widths = config.integers("intermediate_size")
    if len(widths) != count or 0 in widths:
        raise ConfigError(
            f"{config.where}intermediate_size names {len(widths)} layers of {count}",
            hint="give one width for all layers, or one for each of num_hidden_layers",
        )
    return widths


def _layer_norms(config: Config, hidden: int, width: int, streams: int) -> tuple[Weight, ...]:
    """
    Norms, and what mixes the streams (AltUp) and runs beside attention (Laurel).

    Source: Gemma3nTextAltUp and Gemma3nTextLaurelBlock.
    """
    rank = config.integer("laurel_rank", most=10**5)
    return (
        *norms(hidden, *SANDWICH_NORMS),
        *per_layer_gate(hidden, width),
        *norms(hidden, "altup.correct_output_scale", "altup.router_norm"),
        *linear("altup.correction_coefs", streams, streams, role=Role.JOIN),
        *linear("altup.prediction_coefs", streams**2, streams, role=Role.JOIN),
        *linear("altup.modality_router", streams, hidden, role=Role.ROUTER),
        *linear("laurel.linear_left", rank, hidden),
        *linear("laurel.linear_right", hidden, rank),
        *norms(hidden, "laurel.post_laurel_norm"),
    )


def _stream_projections(hidden: int, streams: int) -> tuple[Weight, ...]:
    """Matrices that make the other streams from the first, and that fold them back at the end."""
    return tuple(
        weight
        for name in ("altup_projections", "altup_unembed_projections")
        for index in range(streams - 1)
        for weight in linear(f"{name}.{index}", hidden, hidden)
    )
