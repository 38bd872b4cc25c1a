"""LFM2 with experts: 8B-A1B and 24B-A2B."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.model_profiles.families.common import decoder, experts, mlp, n_layers
from vram_planner.model_profiles.families.hybrid import FULL, kinds
from vram_planner.model_profiles.families.lfm2 import CONV, conv_layers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS: Final = {
    "vocab_size": 65_536,
    "hidden_size": 2048,
    "intermediate_size": 7168,
    "moe_intermediate_size": 1792,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128_000,
    "num_experts_per_tok": 4,
    "num_experts": 32,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/lfm2_moe/modeling_lfm2_moe.py; `layer_types` has no default there."""
    config = config.with_defaults({**_DEFAULTS, "tie_word_embeddings": config.raw("tie_embedding")})
    count = n_layers(config)
    found = kinds(config, count, (CONV, FULL), config.texts("layer_types"), keys=("layer_types",))
    n_dense = config.integer("num_dense_layers", default=2, least=0)
    dense = mlp(config)
    sparse = experts(
        config,
        count=("num_experts",),
        width=("moe_intermediate_size",),
        correction_bias=config.flag("use_expert_bias", default=True),
    )
    feeds = [dense if index < n_dense else sparse for index in range(count)]
    return decoder(config, conv_layers(config, found, feeds), tied=True)
