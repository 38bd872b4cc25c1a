"""GIT: a BERT-shaped decoder behind a CLIP tower; the image's tokens stand before the text's in the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, Weight
from vram_planner.model_profiles.families.common import (
    attention,
    decoder,
    hidden_size,
    mlp,
    n_layers,
    norms,
    stack,
)
from vram_planner.model_profiles.families.towers import clip, tower_weights

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "vocab_size": 30_522,
    "max_position_embeddings": 1024,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/git/modeling_git.py; defaults of GitConfig and GitVisionConfig."""
    own = config.with_defaults(_DEFAULTS)
    vision = config.sub("vision_config").with_defaults({"patch_size": 16})
    block = attention(own, qkv_bias=True, out_bias=True)
    width, eye = block.hidden, hidden_size(vision, 768)
    around = norms(width, "attention.LayerNorm", "output.LayerNorm", bias=True)
    layers = stack(block, (None,) * n_layers(own), mlp(own, gated=False, bias=True), around)
    rows = own.integer("max_position_embeddings")
    positions = Weight(name="positions", shape=(rows, width), role=Role.NORM)
    projection = [(width, eye), (width,), (width,), (width,)]
    frames = config.integer("num_image_with_embedding", default=0, least=0, most=10**4)
    return decoder(
        own,
        layers,
        final_norm=(),
        head_bias=True,
        embedding_extras=(positions, *norms(width, "LayerNorm", bias=True)),
        towers=(*clip(vision), *tower_weights("projection", *projection, *[(1, 1, eye)] * frames)),
    )
