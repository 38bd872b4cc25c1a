"""ProphetNet's decoder, alone: it foretells several tokens at once, each in a stream of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, Weight, linear
from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers, norms, stack
from vram_planner.model_profiles.families.seq2seq_decoder import (
    CROSS_NORM,
    NOTE,
    alone,
    cross,
    positions,
    sizes,
    todays,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_NAMES = {
    "hidden_size": ("hidden_size",),
    "num_hidden_layers": ("num_decoder_layers",),
    "num_attention_heads": ("num_decoder_attention_heads",),
}
_DEFAULTS = sizes(1024, 12, 16, 512, 30_522)
_NGRAM, _BUCKETS = 2, 32
_STREAMS = "each token runs through 1 + ngram streams, of which the work and the memory of a pass count one"


def build(config: Config) -> Architecture:
    """
    Source: transformers models/prophetnet/modeling_prophetnet.py, ProphetNetForCausalLM; defaults of ProphetNetConfig.

    The cache keeps the main stream's keys and values only. Without a tied head there are two tables of tokens.
    """
    alone(config, "prophetnet")
    own = todays(config.replaced({"model_type": "prophetnet"}), _NAMES, _DEFAULTS)
    block, names = attention(own, qkv_bias=True, out_bias=True), ["self_attn_layer_norm", "final_layer_norm"]
    buckets = own.integer("num_buckets", default=_BUCKETS)
    extras = linear(
        "relative_pos_embeddings", buckets * block.n_heads, block.hidden, units=block.n_heads, bias=True
    )
    looks = own.flag("add_cross_attention", default=True)
    if looks:
        extras += cross(block.hidden, block.n_heads)
        names.append(CROSS_NORM)
    layers = stack(
        replace(block, extras=extras),
        (None,) * n_layers(own),
        mlp(own, gated=False, bias=True),
        norms(block.hidden, *names, bias=True),
    )
    streams = Weight(
        name="ngram_embeddings", shape=(own.integer("ngram", default=_NGRAM), block.hidden), role=Role.NORM
    )
    built = decoder(
        own,
        layers,
        tied=True,
        final_norm=(),
        embedding_extras=(
            positions(own.integer("max_position_embeddings"), block.hidden),
            streams,
            *norms(block.hidden, "layernorm_embedding", bias=True),
        ),
        notes=(NOTE, _STREAMS) if looks else (_STREAMS,),
    )
    if built.tied_head:
        return built
    table = Weight(
        name="embed_tokens.wrapper",
        shape=(built.vocabulary, built.hidden),
        role=Role.EMBEDDING,
        units=built.vocabulary,
    )
    return replace(built, embedding_extras=(*built.embedding_extras, table))
