"""Step 3.7 Flash: sliding layers with more heads, a gate on each head, experts with a shared one, a vision tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, Weight
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    decoder,
    experts,
    hidden_size,
    mlp,
    n_layers,
    norms,
    with_window,
)
from vram_planner.model_profiles.families.deepseek_v3 import mtp_weights
from vram_planner.model_profiles.families.laguna import gated_attention
from vram_planner.model_profiles.families.patterns import DENSE, FULL, SLIDING, SPARSE, build_layers
from vram_planner.model_profiles.families.towers import encoder, tower_weights

if TYPE_CHECKING:
    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture, Layer
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 128_815,
    "hidden_size": 4096,
    "intermediate_size": 11_264,
    "num_hidden_layers": 45,
    "num_attention_heads": 64,
    "moe_intermediate_size": 1280,
    "max_position_embeddings": 128_000,
}
_KV_HEADS, _HEAD_DIM = 8, 128
_EXPERTS, _TOP_K, _SHARED, _DENSE_FIRST = 288, 8, 1280, 3
_EYE, _PATCH, _IMAGE, _RATIO = {"hidden_size": 1536, "num_hidden_layers": 47}, 14, 728, 8960 / 1536


def build(config: Config) -> Architecture:
    """
    Source: transformers models/step3p7/modeling_step3p7.py, Step3p7ForConditionalGeneration.

    A config without `text_config` is read as one, where transformers would take its defaults. The layers for
    multi-token prediction, which the lists of the config may name too, bring a head of their own.
    """
    text = (config if config.raw("text_config") is None else config.sub("text_config")).with_defaults(
        _DEFAULTS
    )
    if text.raw("num_key_value_heads") is None:
        text = text.with_defaults({"num_key_value_heads": text.raw("num_attention_groups") or _KV_HEADS})
    layers, drafts, mixers = _layers(text)
    vision = config.sub("vision_config").with_defaults(_EYE)
    hidden, width = hidden_size(text), vision.integer("width", "hidden_size", most=10**6)
    projector = tower_weights("projector", (hidden, 4 * width))
    if config.flag("projector_bias", default=False):
        projector += tower_weights("projector.bias", (hidden,))
    towers = _tower(vision) + projector
    return decoder(text, layers, towers=towers, draft_layers=drafts, draft_mixers=mixers)


def _layers(text: Config) -> tuple[tuple[Layer, ...], tuple[Weight, ...], tuple[Mixer, ...]]:
    """The main layers, and the tensors of those for multi-token prediction, each with a head of its own."""
    count, window = n_layers(text), text.optional_integer("sliding_window")
    drafts = text.integer("num_nextn_predict_layers", "num_mtp_layers", default=0, least=0)
    kinds = _with_drafts(text, "layer_types", (FULL, SLIDING), [FULL] * (count + drafts), count)
    mixers = {
        FULL: gated_attention(text, text.integer("num_attention_heads", most=10**5), head_dim=_HEAD_DIM),
        SLIDING: with_window(gated_attention(text, _sliding_heads(text), head_dim=_HEAD_DIM), window),
    }
    sparse_layers = _sparse_layers(text, count)
    usual = [SPARSE if index in sparse_layers else DENSE for index in range(count + drafts)]
    blocks = _with_drafts(text, "mlp_layer_types", (DENSE, SPARSE), usual, count)
    bias = text.flag("mlp_bias", default=False)
    sparse, dense = _experts(text, bias=bias), mlp(text, bias=bias)
    feeds = [sparse if kind == SPARSE else dense for kind in blocks]
    around = norms(dense.hidden, *RMS_NORMS)
    layers = build_layers([mixers[kind] for kind in kinds], feeds, around)
    vocabulary = text.integer("vocab_size")
    head = Weight(name="shared_head", shape=(vocabulary, dense.hidden), role=Role.HEAD, units=vocabulary)
    draft = tuple(w for layer in layers[count:] for w in (*mtp_weights(dense.hidden, layer), head))
    return layers[:count], draft, tuple(layer.mixer for layer in layers[count:])


def _with_drafts(
    text: Config, key: str, known: tuple[str, ...], usual: list[str], count: int
) -> tuple[str, ...]:
    """The kinds of all layers: a list may stop before those for multi-token prediction. Source: Step3p7TextConfig."""
    kinds = text.texts(key, default=tuple(usual))
    if len(kinds) not in (count, len(usual)) or any(kind not in known for kind in kinds):
        raise ConfigError(
            f"{text.where}{key} does not name {count} layers of {' or '.join(known)}",
            hint="give one entry for each of num_hidden_layers",
        )
    return (*kinds, *usual[len(kinds) :])


def _sliding_heads(text: Config) -> int:
    usual = text.integer("num_attention_heads", most=10**5)
    other = text.sub("attention_other_setting").integer("num_attention_heads", default=usual, most=10**5)
    return text.integer("num_sliding_attention_heads", default=other, most=10**5)


def _sparse_layers(text: Config, count: int) -> frozenset[int]:
    """`moe_layers_enum` as "3,4,5" or a list, else all but the first three."""
    named = text.raw("moe_layers_enum")
    if isinstance(named, str):
        steps = [step.strip() for step in named.split(",") if step.strip()]
        if not all(step.isdecimal() and len(step) < 6 for step in steps):  # noqa: PLR2004  no model has 100,000 layers
            raise ConfigError(
                f"{text.where}moe_layers_enum is no list of numbers", hint="write it as '3,4,5'"
            )
        return frozenset(map(int, steps))
    return frozenset(text.integers("moe_layers_enum", default=tuple(range(_DENSE_FIRST, count))))


def _experts(text: Config, *, bias: bool) -> FeedForward:
    keys = ("n_routed_experts", "num_local_experts", "moe_num_experts", "num_experts")
    if text.raw(*keys) is None:
        text = text.with_defaults({"n_routed_experts": _EXPERTS})
    width = text.integer("share_expert_dim", "share_expert_dims", default=_SHARED)
    return experts(
        text,
        count=keys,
        width=("moe_intermediate_size",),
        top_k=text.integer("moe_top_k", default=_TOP_K, most=10**5),
        correction_bias=True,
        shared=mlp(text, intermediate=width, bias=bias, prefix="shared_experts."),
    )


def _tower(vision: Config) -> tuple[Weight, ...]:
    """Two convolutions behind the layers halve the sides and double the width. Source: Step3p7VisionModel."""
    width, depth = (
        vision.integer("width", "hidden_size", most=10**6),
        vision.integer("layers", "num_hidden_layers"),
    )
    inner = max(1, int(width * vision.number("mlp_ratio", default=_RATIO)))
    patch, channels = (
        vision.integer("patch_size", default=_PATCH, most=10**4),
        vision.integer("num_channels", default=3),
    )
    side = vision.integer("image_size", default=_IMAGE, most=10**5) // patch
    stem = [(width, channels, patch, patch), (side * side, width), (width,), (width,)]
    down = [(2 * width, width, 3, 3), (2 * width,), (4 * width, 2 * width, 3, 3), (4 * width,)]
    return (
        *tower_weights("vision.stem", *stem),
        *encoder(depth, width, inner, (width,), (width,)),
        *tower_weights("vision.down", *down),
    )
