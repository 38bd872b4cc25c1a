"""dots3 Note, the language model: sparse latent attention, and sliding latent attention with heads of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from vram_planner.architecture.attention import SlidingWindow
from vram_planner.architecture.weight import linear, norm
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    decoder,
    hidden_size,
    mlp,
    n_layers,
    norms,
)
from vram_planner.model_profiles.families.deepseek_v2 import latent_attention, latent_experts
from vram_planner.model_profiles.families.deepseek_v32 import sparse_latent, with_experts
from vram_planner.model_profiles.families.patterns import (
    DENSE,
    FULL,
    SLIDING,
    build_layers,
    layer_kinds,
    own_settings,
    sparse_kinds,
)

if TYPE_CHECKING:
    from vram_planner.architecture.attention import Latent, Mixer
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_INDEXED = "indexed_attention"
_WINDOW = 512
_SHARED = 1536
_EXPERTS = 256
# Dots3NoteTextConfig's own defaults.
_DEFAULTS = {
    "vocab_size": 152_064,
    "hidden_size": 5120,
    "intermediate_size": 13_824,
    "moe_intermediate_size": 1536,
    "num_hidden_layers": 46,
    "num_attention_heads": 128,
    "n_shared_experts": 1,
    "kv_lora_rank": 512,
    "q_lora_rank": 1024,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "num_experts_per_tok": 8,
    "max_position_embeddings": 524_288,
    "index_topk": 2048,
    "index_head_dim": 128,
    "index_n_heads": 64,
}
# What sliding layers have instead, under `swa_` and the key.
_SLIDING: Final = {
    "num_attention_heads": 64,
    "q_lora_rank": 1024,
    "kv_lora_rank": 1024,
    "qk_nope_head_dim": 192,
    "v_head_dim": 128,
}
_SLIDING_HEAD = 256


def build(config: Config) -> Architecture:
    """Source: transformers models/dots3_note/modeling_dots3_note.py, Dots3NoteForCausalLM."""
    config = with_experts(config.with_defaults(_DEFAULTS), _EXPERTS)
    count = n_layers(config)
    kinds = _attention_kinds(config, count)
    mixers: dict[str, Mixer] = {}
    for index, kind in enumerate(kinds):
        if kind not in mixers:
            mixers[kind] = _mixer(config, index, kind)
    dense, sparse = mlp(config), latent_experts(config, correction_bias=True)
    shared = config.integer(
        "moe_shared_expert_intermediate_size", "shared_experts_intermediate_size", default=_SHARED
    )
    n_shared = config.integer("n_shared_experts", most=10**3)
    sparse = replace(sparse, shared=mlp(config, intermediate=shared * n_shared, prefix="shared_experts."))
    feeds = [dense if kind == DENSE else sparse for kind in sparse_kinds(config, count, dense_first=1)]
    layers = build_layers([mixers[kind] for kind in kinds], feeds, norms(hidden_size(config), *RMS_NORMS))
    return decoder(config, layers)


def _attention_kinds(config: Config, count: int) -> tuple[str, ...]:
    """The first two layers and each fourth are indexed, the others slide; older configs call the former full."""
    no_slide = not config.flag("use_sliding_window", default=True)
    sparse: bool | None = None if config.raw("per_layer_config") is not None else True
    if config.raw("use_dsa") is not None:
        sparse = config.flag("use_dsa")
    wide = FULL if sparse is False else _INDEXED
    default = [wide if no_slide or index < 2 or index % 4 == 1 else SLIDING for index in range(count)]  # noqa: PLR2004
    kinds = layer_kinds(config, "layer_types", count, (FULL, _INDEXED, SLIDING), default)
    if sparse is None:
        return kinds
    return tuple(kind if kind == SLIDING else wide for kind in kinds)


def _mixer(config: Config, index: int, kind: str) -> Mixer:
    if kind != SLIDING:
        inner = _gated(config)
        if kind == FULL:
            return inner
        return replace(sparse_latent(config), inner=inner)
    window = config.integer("sliding_window", "sliding_window_size", default=_WINDOW)
    return SlidingWindow(inner=_gated(config.replaced(_sliding_settings(config, index))), window=window)


def _sliding_settings(config: Config, index: int) -> dict[str, Any]:
    """Sizes of a sliding layer: `per_layer_config`, or the `swa_` keys of the published config."""
    if config.raw("per_layer_config") is not None:
        return own_settings(config, index, *_SLIDING, "qk_rope_head_dim")
    found = {key: config.integer(f"swa_{key}", default=usual) for key, usual in _SLIDING.items()}
    head = config.integer("swa_head_dim", default=_SLIDING_HEAD)
    found["qk_rope_head_dim"] = config.integer(
        "swa_qk_rope_head_dim", default=max(1, head - found["qk_nope_head_dim"])
    )
    return found


def _gated(config: Config) -> Latent:
    """Latent attention with a norm on the rotary key and a gate for each head. Source: Dots3NoteTextAttention."""
    heads = config.integer("num_attention_heads", most=10**5)
    extras = (
        *norm("k_rope_only_layernorm", config.integer("qk_rope_head_dim")),
        *linear("g_proj", heads, hidden_size(config), units=heads),
    )
    return latent_attention(config, extras=extras)
