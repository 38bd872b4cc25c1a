"""Qwen 3.5 and 3.6, dense and with experts: Qwen3-Next's layers, and a vision tower where the checkpoint has one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from vram_planner.architecture.model import Layer
from vram_planner.model_profiles.families.common import RMS_NORMS, decoder, hidden_size, mlp, n_layers, norms
from vram_planner.model_profiles.families.deepseek_v3 import mtp_weights
from vram_planner.model_profiles.families.eyes import qwen3_eye
from vram_planner.model_profiles.families.qwen3_next import (
    DELTA_DEFAULTS,
    delta_layers,
    gated_attention,
    shared_and_routed,
)
from vram_planner.model_profiles.families.towers import tower_weights

if TYPE_CHECKING:
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

_FUSED: Final = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a")
_DENSE: Final = {
    **DELTA_DEFAULTS,
    "vocab_size": 248_320,
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 32,
    "num_key_value_heads": 4,
}
_SPARSE: Final = {
    **DELTA_DEFAULTS,
    "vocab_size": 248_320,
    "hidden_size": 2048,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts_per_tok": 8,
    "num_experts": 256,
}
_TEXT_ONLY: Final = "the config names no class with a vision tower: counted as a language model alone"


def build(config: Config) -> Architecture:
    """
    Source: transformers models/qwen3_5/modeling_qwen3_5.py and models/qwen3_5_moe.

    A config with `vision_config` may be either class. As AutoModelForCausalLM does, we take the language
    model, unless `architectures` names the one with the tower, as the published configs do.
    """
    if config.raw("text_config") is None and config.raw("vision_config") is None:
        return _text(config)
    tied = {"tie_word_embeddings": config.raw("tie_word_embeddings")}
    text = config.sub("text_config").with_defaults(tied)
    if not any("ConditionalGeneration" in name for name in config.texts("architectures", default=())):
        return _text(text, outer=config, notes=(_TEXT_ONLY,))
    vision = config.sub("vision_config")
    return replace(_text(text, outer=config, towers=_vision(vision)), eye=qwen3_eye(vision))


def _text(
    config: Config,
    *,
    outer: Config | None = None,
    towers: tuple[Weight, ...] = (),
    notes: tuple[str, ...] = (),
) -> Architecture:
    named = (outer or config).texts("architectures", default=())
    sparse = "moe" in (outer or config).text("model_type", default="") or any("Moe" in name for name in named)
    config = config.with_defaults(_SPARSE if sparse else _DENSE)
    feed: FeedForward = shared_and_routed(config) if sparse else mlp(config)
    layers = delta_layers(config, [feed] * n_layers(config), fused=_FUSED)
    count = config.integer("mtp_num_hidden_layers", default=0, least=0, most=1000)
    draft: tuple[Weight, ...] = ()
    if count:
        around = norms(hidden_size(config), *RMS_NORMS)
        drafting = Layer(mixer=gated_attention(config), feed_forward=feed, norms=around)
        # Norms and the joint projection come once. Source: vLLM qwen3_next_mtp.py, Qwen3NextMultiTokenPredictor.
        draft = mtp_weights(hidden_size(config), drafting) + drafting.weights * (count - 1)
    return decoder(
        config,
        layers,
        draft_layers=draft,
        draft_mixers=(gated_attention(config),) * count,
        towers=towers,
        notes=notes,
    )


def _vision(vision: Config) -> tuple[Weight, ...]:
    """
    A vision transformer over patches of two frames, learned positions, and a merger of patches.

    Source: Qwen3_5VisionModel; defaults of Qwen3_5VisionConfig.
    """
    width = vision.integer("hidden_size", default=1152, most=10**6)
    inner = vision.integer("intermediate_size", default=4304)
    depth = vision.integer("depth", "num_hidden_layers", default=27)
    patch = vision.integer("patch_size", default=16, most=10**4)
    frames = vision.integer("temporal_patch_size", default=2, most=10**3)
    channels = vision.integer("in_channels", default=3, most=10**3)
    merged = width * vision.integer("spatial_merge_size", default=2, most=10**3) ** 2
    out = vision.integer("out_hidden_size", default=3584, most=10**6)
    positions = vision.integer("num_position_embeddings", default=2304)
    vector = (width,)
    layer = [vector] * 4 + [(3 * width, width), (3 * width,), (width, width), vector]
    layer += [(inner, width), (inner,), (width, inner), vector]
    return (
        *tower_weights("vision.stem", (width, channels, frames, patch, patch), vector, (positions, width)),
        *tower_weights("vision.layers", *((depth, *shape) for shape in layer)),
        *tower_weights("vision.merger", vector, vector, (merged, merged), (merged,), (out, merged), (out,)),
    )
