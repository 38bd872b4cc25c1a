"""Grok 1 and 2: two experts of eight behind a soft-capped router, in Grok 2 beside a dense block that every token uses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import (
    SANDWICH_NORMS,
    attention,
    decoder,
    experts,
    mlp,
    n_layers,
    norms,
    stack,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# What Grok1ForCausalLM takes where a config is silent.
_DEFAULTS = {"num_local_experts": 8, "num_experts_per_tok": 2}


def build(config: Config) -> Architecture:
    """
    Source: sglang v0.5.23 srt/models/grok.py (Grok1DecoderLayer) and llama.cpp src/models/grok.cpp.

    With `residual_moe` (Grok 2) a gated block of `intermediate_size` runs beside the experts, which are then
    `moe_intermediate_size` wide; without it (Grok 1) the experts are as wide as either says. Four norms a layer,
    no bias, a head of its own. transformers has no class. Left out: the temperature of long contexts and the soft
    caps, which are no tensors. With a `rope_type` (Grok 2) no two layers share their rotary angles.
    """
    config = config.with_defaults(_DEFAULTS)
    block = attention(config)
    dense = mlp(config, prefix="mlp.") if config.flag("residual_moe", default=False) else None
    feed = experts(
        config,
        count=("num_local_experts",),
        width=("moe_intermediate_size", "intermediate_size"),
        shared=dense,
        beside=dense is not None,
    )
    layers = stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *SANDWICH_NORMS))
    own_angles = config.raw("rope_type") is not None
    # Grok 2 calls itself "git", the name of another family.
    return replace(decoder(config, layers), model_type="grok", own_angles=own_angles)
