"""Old configs call the same figures by other names: they are read as today's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.model_profiles.config import Config

# As GPT-2's config and those made after it call them.
GPT_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "intermediate_size": "n_inner",
}


def today(config: Config, names: Mapping[str, str], **defaults: Any) -> Config:
    """
    The same config under today's names; `names` maps these to the older ones.

    `defaults` are what the family's config class takes where the config is silent.
    """
    return config.with_defaults({new: config.raw(old) for new, old in names.items()}).with_defaults(defaults)
