"""ERNIE 4.5 VL: ERNIE 4.5's layers with experts of their own for images, a vision transformer, a resampler."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    experts,
    hidden_size,
    mlp,
    n_layers,
    norms,
    stack,
)
from vram_planner.model_profiles.families.towers import encoder, tower_weights
from vram_planner.model_profiles.families.vision_language import with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

_TEXT: dict[str, Any] = {
    "vocab_size": 103_424,
    "hidden_size": 2560,
    "intermediate_size": 12_288,
    "num_hidden_layers": 28,
    "num_attention_heads": 20,
    "max_position_embeddings": 131_072,
}
_KV_HEADS = 4
_WIDTHS = (1536, 512)
_EXPERTS = 64


def build(config: Config) -> Architecture:
    """
    Source: transformers models/ernie4_5_vl_moe/modeling_ernie4_5_vl_moe.py.

    Text tokens use the first set of experts, image tokens the second; the shared experts serve both.
    """
    text, vision = config.sub("text_config").with_defaults(_TEXT), config.sub("vision_config")
    bias, count = text.flag("use_bias", default=False), n_layers(text)
    block = attention(text, kv_heads=_KV_HEADS, qkv_bias=bias, out_bias=bias)
    kinds = text.texts("mlp_layer_types", default=("dense",) + ("sparse",) * (count - 1))
    if len(kinds) != count or not {"dense", "sparse"}.issuperset(kinds):
        raise ConfigError(
            f"text_config.mlp_layer_types does not name {count} layers as dense or sparse",
            hint="give one of the two for each of num_hidden_layers",
        )
    feeds = {"dense": mlp(text, bias=bias), "sparse": _experts(text, bias=bias)}
    layers = stack(block, (None,) * count, [feeds[kind] for kind in kinds], norms(block.hidden, *RMS_NORMS))
    inner = decoder(text, layers)
    return with_towers(config, inner, _towers(vision, inner.hidden), tied=True)


def _experts(text: Config, *, bias: bool) -> FeedForward:
    widths = text.integers("moe_intermediate_size", default=_WIDTHS)
    if len(widths) != 2 or 0 in widths:  # noqa: PLR2004  text and images
        raise ConfigError(
            "text_config.moe_intermediate_size is no pair of widths", hint="give it as [1536, 512]"
        )
    n_shared = text.integer("moe_num_shared_experts", default=2, least=0)
    # The bias that balances a router is a parameter here, not a buffer.
    common = {"top_k": text.integer("moe_k", default=6), "router_bias": True}
    sized = text.with_defaults({"moe_num_experts": _EXPERTS})
    sets = [
        experts(
            sized.replaced({"moe_intermediate_size": width}),
            count=("moe_num_experts",),
            width=("moe_intermediate_size",),
            **common,
        )
        for width in widths
    ]
    shared = mlp(text, intermediate=widths[0] * n_shared, bias=bias, prefix="shared_experts.")
    return replace(sets[0], other=sets[1], shared=shared if n_shared else None)


def _towers(vision: Config, hidden: int) -> tuple[Weight, ...]:
    width = hidden_size(vision, 1280)
    patch = vision.integer("patch_size", default=14, most=10**4)
    channels = vision.integer("in_channels", default=3, most=10**3)
    depth = vision.integer("depth", "num_hidden_layers", default=32)
    inner = vision.integer("intermediate_size", default=5120)
    flat = width * vision.integer("spatial_merge_size", default=2, most=64) ** 2
    film = flat * vision.integer("temporal_merge_size", default=2, most=64)
    after = [(flat,), (flat, flat), (flat,), (flat,), (flat,)]
    return (
        *tower_weights("vision.stem", (width, channels * patch * patch), (width,), (width,)),
        *encoder(depth, width, inner),
        *tower_weights("resampler.spatial", (flat, flat), *after),
        *tower_weights("resampler.temporal", (flat, film), *after),
        *tower_weights("resampler.out", (hidden, flat), (hidden,), (hidden,)),
    )
