"""Gemma 4's drafters: a few layers that read the cache of the model they draft for, and keep none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.architecture.weight import Role, Weight, linear
from vram_planner.model_profiles.families.common import hidden_size, n_layers
from vram_planner.model_profiles.families.gemma4_text import DEFAULTS, gemma4_decoder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_BACKBONE = 1536
_CENTROIDS = 2048


def build(config: Config) -> Architecture:
    """Source: transformers models/gemma4_assistant/modeling_gemma4_assistant.py, Gemma4AssistantForCausalLM."""
    return drafter(config, DEFAULTS, _BACKBONE)


def drafter(config: Config, defaults: Mapping[str, Any], backbone: int) -> Architecture:
    """The text model without caches, between projections from and to the hidden size of the large model."""
    tied = {"tie_word_embeddings": config.flag("tie_word_embeddings", default=True)}
    text = config.sub("text_config").with_defaults({"model_type": "gemma4_assistant", **defaults})
    text = text.replaced({**tied, "enable_moe_block": False})
    hidden, outside = hidden_size(text), config.integer("backbone_hidden_size", default=backbone)
    extras = (
        *linear("pre_projection", hidden, 2 * outside, role=Role.JOIN),
        *linear("post_projection", outside, hidden, role=Role.JOIN),
    )
    if config.flag("use_ordered_embeddings", default=False):
        extras += linear(
            "masked_embedding.centroids", config.integer("num_centroids", default=_CENTROIDS), hidden
        )
        # Its order of tokens is a buffer of 8-byte integers: as large as two float32 numbers each.
        rows = text.integer("vocab_size")
        extras += (Weight(name="masked_embedding.token_ordering", shape=(rows, 2), role=Role.BUFFER),)
    return gemma4_decoder(
        text,
        width=0,
        borrowed=n_layers(text),
        extras=extras,
        notes=("a drafter: it reads the cache of the Gemma 4 model that it drafts for",),
    )
