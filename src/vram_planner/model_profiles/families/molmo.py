"""Molmo 7B: OLMo's or Qwen 2's layers behind CLIP's large tower and a pooling of its patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, Weight
from vram_planner.errors import UnsupportedArchitectureError
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    mlp,
    n_layers,
    norms,
    stack,
)
from vram_planner.model_profiles.families.towers import encoder, tower_weights

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# Of the vision backbone; the published configs say nothing of it.
_EYE, _EYE_INNER, _EYE_LAYERS, _EYE_PATCH, _EYE_TOKENS = 1024, 4096, 23, 14, 577
_NEW_TOKENS = 128
_VOCABULARY = 50_304


def build(config: Config) -> Architecture:
    """
    Source: allenai/Molmo-7B-D-0924 modeling_molmo.py (MolmoVisionBackbone); read as in vLLM's models/molmo.py.

    `intermediate_size` counts both halves of the gated MLP. Only 23 of the tower's 24 layers are there.
    """
    if config.raw("num_experts", "moe_num_experts") is not None:
        raise UnsupportedArchitectureError(
            "a Molmo with experts is not supported", hint="take Molmo-7B-D, 7B-O or 72B"
        )
    bare = attention(config)
    widths = None
    if config.flag("attention_layer_norm", default=False):
        widths = (bare.n_heads * bare.head_dim, bare.n_kv_heads * bare.head_dim)
    block = attention(config, qkv_bias=config.flag("qkv_bias", default=False), fused_qkv=True, qk_norm=widths)
    inner = config.integer("intermediate_size", least=2) // 2
    feed = mlp(config, intermediate=inner, fused=True)
    layers = stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *RMS_NORMS))
    new = Weight(name="new_embedding", shape=(_NEW_TOKENS, block.hidden), role=Role.EMBEDDING)
    rows = config.integer("embedding_size", "vocab_size", default=_VOCABULARY)
    return decoder(
        config,
        layers,
        vocabulary=rows,
        tied=config.flag("weight_tying", default=False),
        embedding_extras=(new,),
        towers=_eye(block.hidden, inner),
    )


def _eye(hidden: int, inner: int) -> tuple[Weight, ...]:
    """
    The tower without its last layer and norm, the pooling over two of its layers, the projector.

    Patches go in through a matrix without a bias; two learned vectors stand for padding.
    """
    two, one = 2 * _EYE, _EYE
    stem = [(one,), (_EYE_TOKENS, one), (one, 3 * _EYE_PATCH**2), (one,), (one,)]
    pooling = [*[(one, two), (one,)] * 3, (one, one), (one,), (2, two)]
    projector = [(inner, one), (inner, one), (hidden, inner)]
    return (
        *tower_weights("vision.stem", *stem),
        *encoder(_EYE_LAYERS, one, _EYE_INNER),
        *tower_weights("vision.pooling", *pooling),
        *tower_weights("projector", *projector),
    )
