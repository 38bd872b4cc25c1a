"""Hy 4: latent attention with gates, sinks and an indexer, experts, and several residual streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.sparse import Indexer, SparseLatent
from vram_planner.architecture.weight import Role, Weight, linear
from vram_planner.model_profiles.families.common import RMS_NORMS, decoder, hidden_size, mlp, n_layers, norms
from vram_planner.model_profiles.families.deepseek_v2 import latent_attention, latent_experts
from vram_planner.model_profiles.families.patterns import DENSE, SPARSE, build_layers, layer_kinds

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 120_832,
    "hidden_size": 2816,
    "intermediate_size": 6912,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 34,
    "num_attention_heads": 32,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
    "max_position_embeddings": 262_144,
}
_EXPERTS = 256
_TOP_K = 2048
_INDEX_HEADS, _INDEX_DIM = 16, 128
_STREAMS = 4
_OWN, _TAKEN = "full", "shared"


def build(config: Config) -> Architecture:
    """Source: transformers models/hy_v4/modeling_hy_v4.py."""
    config = config.with_defaults(_DEFAULTS)
    if config.raw("n_routed_experts", "num_local_experts") is None:
        config = config.with_defaults({"n_routed_experts": _EXPERTS})
    hidden, count = hidden_size(config), n_layers(config)
    streams = config.integer("hc_mult", default=_STREAMS, most=10**3)
    usual = [_OWN if index == 0 or (index - 1) % 4 == 0 else _TAKEN for index in range(count)]
    choices = layer_kinds(config, "indexer_types", count, (_OWN, _TAKEN), usual)
    usual = [DENSE, *[SPARSE] * (count - 1)]
    blocks = layer_kinds(config, "mlp_layer_types", count, (DENSE, SPARSE), usual)
    mixers = {kind: _attention(config, chooses=kind == _OWN) for kind in set(choices)}
    feeds = {
        kind: latent_experts(config, correction_bias=True) if kind == SPARSE else mlp(config)
        for kind in set(blocks)
    }
    around = (
        *norms(hidden, *RMS_NORMS),
        *_streams("attn_hc", hidden, streams),
        *_streams("ffn_hc", hidden, streams),
    )
    layers = build_layers([mixers[kind] for kind in choices], [feeds[kind] for kind in blocks], around)
    head = (
        Weight(name="hc_head.fn", shape=(streams, streams * hidden), role=Role.JOIN),
        Weight(name="hc_head.base", shape=(streams,), role=Role.BIAS),
        Weight(name="hc_head.scale", shape=(1,), role=Role.BIAS),
    )
    return decoder(config, layers, final_norm=(*norms(hidden, "norm"), *head))


def _attention(config: Config, *, chooses: bool) -> SparseLatent:
    """Every element of a head's output has a gate; layers whose `indexer_types` is "shared" take an earlier choice."""
    hidden, rank = hidden_size(config), config.integer("q_lora_rank")
    heads = config.integer("num_attention_heads", most=10**5)
    extras = (
        *linear("gate_proj", heads * config.integer("v_head_dim"), hidden, units=heads),
        Weight(name="sinks", shape=(heads,), role=Role.BIAS, units=heads),
    )
    chooser = Indexer(
        hidden=hidden,
        query_rank=rank,
        n_heads=config.integer("index_n_heads", default=_INDEX_HEADS, most=10**4),
        head_dim=config.integer("index_head_dim", default=_INDEX_DIM, most=10**5),
    )
    return SparseLatent(
        inner=latent_attention(config, extras=extras),
        top_k=config.integer("index_topk", default=_TOP_K),
        chooser=chooser if chooses else None,
    )


def _streams(name: str, hidden: int, streams: int) -> tuple[Weight, ...]:
    """What mixes the residual streams before and after a block. Source: HYV4HyperConnection."""
    return (
        Weight(name=f"{name}.fn", shape=(2 * streams, streams * hidden), role=Role.JOIN),
        Weight(name=f"{name}.base", shape=(2 * streams,), role=Role.BIAS),
        Weight(name=f"{name}.scale", shape=(2,), role=Role.BIAS),
    )
