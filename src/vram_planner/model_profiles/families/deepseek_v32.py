"""DeepSeek-V3.2: V3's layers with an indexer that chooses the tokens that attention reads (DSA)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.model import Layer
from vram_planner.architecture.sparse import Indexer, SparseLatent
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
from vram_planner.model_profiles.families.patterns import DENSE, build_layers, sparse_kinds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DENSE_FIRST = 3
# DeepseekV32Config's own defaults.
_DEFAULTS = {
    "vocab_size": 129_280,
    "hidden_size": 7168,
    "intermediate_size": 18_432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "n_shared_experts": 1,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "num_experts_per_tok": 8,
    "max_position_embeddings": 163_840,
    "index_topk": 2048,
    "index_head_dim": 128,
    "index_n_heads": 64,
}
_EXPERTS = 256


def build(config: Config) -> Architecture:
    """Source: transformers models/deepseek_v32/modeling_deepseek_v32.py, DeepseekV32Attention."""
    config = with_experts(config.with_defaults(_DEFAULTS), _EXPERTS)
    return sparse_decoder(config, (True,) * n_layers(config))


def with_experts(config: Config, count: int) -> Config:
    """The config with the family's number of routed experts, where none of its three keys is there."""
    known = config.raw("n_routed_experts", "num_experts", "num_local_experts")
    return config.with_defaults({"n_routed_experts": count if known is None else known})


def sparse_decoder(config: Config, own_choice: Sequence[bool]) -> Architecture:
    """Layers that choose for themselves (True) or take over the choice of the layer before."""
    hidden, count = hidden_size(config), n_layers(config)
    kinds = sparse_kinds(config, count, dense_first=_DENSE_FIRST)
    dense, sparse = mlp(config), latent_experts(config, correction_bias=True)
    mixer = {choice: sparse_latent(config, own_choice=choice) for choice in (True, False)}
    layer_norms = norms(hidden, *RMS_NORMS)
    layers = build_layers(
        [mixer[choice] for choice in own_choice],
        [dense if kind == DENSE else sparse for kind in kinds],
        layer_norms,
    )
    drafts = config.integer("num_nextn_predict_layers", default=0, least=0)
    draft = Layer(mixer=mixer[True], feed_forward=sparse, norms=layer_norms)
    weights = mtp_weights(hidden, draft) * drafts
    return decoder(config, layers, draft_layers=weights, draft_mixers=(draft.mixer,) * drafts)


def sparse_latent(config: Config, *, own_choice: bool = True) -> SparseLatent:
    """Latent attention over the tokens that an indexer chose."""
    indexer = Indexer(
        hidden=hidden_size(config),
        query_rank=config.integer("q_lora_rank"),
        n_heads=config.integer("index_n_heads", most=10**5),
        head_dim=config.integer("index_head_dim"),
    )
    return SparseLatent(
        inner=latent_attention(config),
        top_k=config.integer("index_topk"),
        chooser=indexer if own_choice else None,
    )
