"""CPM-Ant 10B: learned prompts and segments, a bias for each distance, a head of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, Weight
from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers, norms, stack

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


_DEFAULTS = {
    "hidden_size": 4096,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "dim_head": 128,
    "dim_ff": 10_240,
    "vocab_size": 30_720,
}


def build(config: Config) -> Architecture:
    """
    Source: transformers models/cpmant/modeling_cpmant.py; defaults of CpmAntConfig.

    The embedding has rows for the prompts below those of the vocabulary, so it cannot serve as head,
    whatever `tie_word_embeddings` says. The prompt is in the cache with every request.
    """
    own = config.with_defaults(_DEFAULTS)
    block = attention(own.with_defaults({"head_dim": own.integer("dim_head", most=10**5)}))
    feed = mlp(own, intermediate=own.integer("dim_ff"))
    around = norms(block.hidden, "layernorm_before_attention", "layernorm_before_ffn")
    layers = stack(block, (None,) * n_layers(own), feed, around)
    types, length = own.integer("prompt_types", default=32), own.integer("prompt_length", default=32)
    segments = own.integer("segment_types", default=32, most=10**5)
    buckets = own.integer("position_bias_num_buckets", default=512) + segments**2
    prompt = f"each request holds {length} tokens of a learned prompt besides its own"
    whole = decoder(
        own,
        layers,
        embedding_extras=(
            Weight(name="prompts", shape=(types * length, block.hidden), role=Role.EMBEDDING),
            Weight(name="segments", shape=(segments, block.hidden), role=Role.EMBEDDING),
            Weight(name="position_bias", shape=(buckets, block.n_heads), role=Role.NORM),
        ),
        final_norm=norms(block.hidden, "output_layernorm"),
        notes=(prompt,),
    )
    return replace(whole, tied_head=False)
