"""GLM-5 to 5.3: DeepSeek-V3.2's layers; from 5.2 on three of four layers take over the choice of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.common import n_layers
from vram_planner.model_profiles.families.deepseek_v32 import sparse_decoder, with_experts
from vram_planner.model_profiles.families.patterns import layer_kinds

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# GlmMoeDsaConfig's own defaults.
_DEFAULTS = {
    "vocab_size": 154_880,
    "hidden_size": 6144,
    "intermediate_size": 12_288,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 78,
    "num_attention_heads": 64,
    "n_shared_experts": 1,
    "kv_lora_rank": 512,
    "q_lora_rank": 2048,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "num_experts_per_tok": 8,
    "max_position_embeddings": 202_752,
    "index_topk": 2048,
    "index_head_dim": 128,
    "index_n_heads": 32,
}
_EXPERTS = 256
_OFFSET = 2
_LETTERS = {"F": "full", "S": "shared"}


def build(config: Config) -> Architecture:
    """Source: transformers models/glm_moe_dsa/modeling_glm_moe_dsa.py, GlmMoeDsaAttention."""
    config = with_experts(config.with_defaults(_DEFAULTS), _EXPERTS)
    return sparse_decoder(config, [kind == "full" for kind in _indexer_kinds(config)])


def _indexer_kinds(config: Config) -> tuple[str, ...]:
    """
    "full" or "shared" for each layer: `indexer_types`, or a pattern ("FSSF…" or a list), or a schedule.

    Source: GlmMoeDsaConfig.__post_init__.
    """
    count = n_layers(config)
    pattern = config.raw("index_topk_pattern")
    if isinstance(pattern, str):
        default = tuple(_LETTERS.get(letter, letter) for letter in pattern)
    elif pattern is not None:
        default = config.texts("index_topk_pattern")
    else:
        step = max(config.integer("index_topk_freq", default=1, least=0), 1)
        offset = config.integer("index_skip_topk_offset", default=_OFFSET, least=0)
        default = tuple(
            "full" if max(index - offset + 1, 0) % step == 0 else "shared" for index in range(count)
        )
    kinds = layer_kinds(config, "indexer_types", count, ("full", "shared"), default)
    if kinds[0] == "shared":
        raise ConfigError(
            f"{config.where}indexer_types starts with a layer that has no earlier choice to take over",
            hint="the first layer must be 'full'",
        )
    return kinds
