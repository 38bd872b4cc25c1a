"""GLM-4.7-Flash: DeepSeek-V3's layers under GLM's name, one dense layer first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.model import Layer
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    decoder,
    hidden_size,
    mlp,
    n_layers,
    norms,
)
from vram_planner.model_profiles.families.deepseek_v2 import latent_attention, latent_experts
from vram_planner.model_profiles.families.deepseek_v3 import mtp_weights
from vram_planner.model_profiles.families.deepseek_v32 import with_experts
from vram_planner.model_profiles.families.patterns import DENSE, SPARSE, build_layers, layer_kinds

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# Glm4MoeLiteConfig's own defaults.
_DEFAULTS = {
    "vocab_size": 154_880,
    "hidden_size": 2048,
    "intermediate_size": 10_240,
    "moe_intermediate_size": 1536,
    "num_hidden_layers": 47,
    "num_attention_heads": 20,
    "n_shared_experts": 1,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "num_experts_per_tok": 4,
    "max_position_embeddings": 202_752,
}
_QUERY_RANK = 768
_EXPERTS = 64


def build(config: Config) -> Architecture:
    """
    Source: transformers models/glm4_moe_lite/modeling_glm4_moe_lite.py.

    There `first_k_dense_replace` is not read: one dense layer, unless `mlp_layer_types` says otherwise.
    """
    config = with_experts(config.with_defaults(_DEFAULTS), _EXPERTS)
    if not config.has("q_lora_rank"):  # null means a query without a latent
        config = config.with_defaults({"q_lora_rank": _QUERY_RANK})
    hidden, count = hidden_size(config), n_layers(config)
    kinds = layer_kinds(config, "mlp_layer_types", count, (DENSE, SPARSE), [DENSE, *[SPARSE] * (count - 1)])
    mixer, layer_norms = latent_attention(config), norms(hidden, *RMS_NORMS)
    dense, sparse = mlp(config), latent_experts(config, correction_bias=True)
    layers = build_layers(
        [mixer] * count, [dense if kind == DENSE else sparse for kind in kinds], layer_norms
    )
    drafts = config.integer("num_nextn_predict_layers", default=0, least=0)
    draft = Layer(mixer=mixer, feed_forward=sparse, norms=layer_norms)
    return decoder(
        config, layers, draft_layers=mtp_weights(hidden, draft) * drafts, draft_mixers=(mixer,) * drafts
    )
