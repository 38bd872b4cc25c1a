"""MiniMax-M3: grouped-query attention with an indexer that chooses blocks, experts with a shared one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.architecture.cross import BlockSparse
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    experts,
    mlp,
    n_layers,
    norms,
)
from vram_planner.model_profiles.families.patterns import DENSE, FULL, SPARSE, build_layers, layer_kinds

if TYPE_CHECKING:
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 200_064,
    "hidden_size": 6144,
    "intermediate_size": 3072,
    "num_hidden_layers": 60,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "max_position_embeddings": 524_288,
    "dense_intermediate_size": 12_288,
    "shared_intermediate_size": 3072,
}
_HEAD_DIM = 128
_EXPERTS, _TOP_K = 128, 4
_INDEX = {
    "sparse_num_index_heads": ("index_n_heads", 4),
    "sparse_index_dim": ("index_head_dim", 128),
    "sparse_block_size": ("index_block_size", 128),
    "sparse_topk_blocks": ("index_topk_blocks", 16),
}
_CHOOSING = "minimax_m3_sparse"


def build(config: Config, **rest: Any) -> Architecture:
    """
    Source: transformers models/minimax_m3_vl/modeling_minimax_m3_vl.py, MiniMaxM3VLForCausalLM.

    `rest` are Architecture's own fields (the vision tower).
    """
    config = config.with_defaults(_DEFAULTS)
    if config.raw("num_local_experts", "num_experts") is None:
        config = config.with_defaults({"num_local_experts": _EXPERTS})
    count, sparse = n_layers(config), config.sub("sparse_attention_config")
    width = attention(config, head_dim=_HEAD_DIM).head_dim
    block = attention(config, head_dim=_HEAD_DIM, qk_norm=(width, width))
    chooser = BlockSparse(inner=block, **_index(config, sparse))
    usual = _flagged(sparse, "sparse_attention_freq", count, (_CHOOSING, FULL), FULL)
    kinds = layer_kinds(config, "layer_types", count, (_CHOOSING, FULL), usual)
    usual = _flagged(config, "moe_layer_freq", count, (SPARSE, DENSE), SPARSE)
    blocks = layer_kinds(config, "mlp_layer_types", count, (DENSE, SPARSE), usual)
    feeds = {kind: _experts(config) if kind == SPARSE else _dense(config) for kind in set(blocks)}
    layers = build_layers(
        [chooser if kind == _CHOOSING else block for kind in kinds],
        [feeds[kind] for kind in blocks],
        norms(block.hidden, *RMS_NORMS),
    )
    return decoder(config, layers, **rest)


def _index(config: Config, sparse: Config) -> dict[str, int]:
    """The indexer's sizes: of `sparse_attention_config`, else of the newer keys. Source: MiniMaxM3VLTextConfig."""
    sizes = [
        sparse.integer(old, default=config.integer(new, default=usual, most=10**5), most=10**5)
        for old, (new, usual) in _INDEX.items()
    ]
    return dict(zip(("index_heads", "index_dim", "block", "blocks"), sizes, strict=True))


def _flagged(config: Config, key: str, count: int, names: tuple[str, str], silent: str) -> list[str]:
    """A list of flags as names of kinds; `silent` everywhere where the config has none."""
    if config.raw(key) is None:
        return [silent] * count
    return [names[0] if flag else names[1] for flag in config.integers(key)]


def _dense(config: Config) -> FeedForward:
    return mlp(config, intermediate=config.integer("dense_intermediate_size"), fused=True)


def _experts(config: Config) -> FeedForward:
    width = config.integer("shared_intermediate_size")
    return experts(
        config,
        count=("num_local_experts", "num_experts"),
        width=("intermediate_size",),
        top_k=_TOP_K,
        correction_bias=True,
        shared=mlp(config, intermediate=width, fused=True, prefix="shared_experts."),
    )
