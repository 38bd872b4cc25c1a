"""FlexOlmo: OLMo 2's attention and norms around experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import decoder, experts, n_layers, norms, stack
from vram_planner.model_profiles.families.olmo2 import POST_NORMS, olmo_attention

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# FlexOlmoConfig's own defaults.
_DEFAULTS = {
    "vocab_size": 100_352,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "num_experts": 7,
    "num_experts_per_tok": 5,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/flex_olmo/modeling_flex_olmo.py."""
    config = config.with_defaults(_DEFAULTS)
    block = olmo_attention(config)
    feed = experts(config, count=("num_experts", "num_local_experts"), width=("intermediate_size",))
    layers = stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *POST_NORMS))
    return decoder(config, layers)
