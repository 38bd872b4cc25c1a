"""GPT-Neo 125M to 2.7B: learned positions, a tied head, no biases on q, k and v."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, Weight
from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers, norms, stack
from vram_planner.model_profiles.families.names import today

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


_NAMES = {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"}


def build(config: Config) -> Architecture:
    """
    Source: transformers models/gpt_neo/modeling_gpt_neo.py; defaults of GPTNeoConfig.

    Every other layer reads only the last 256 tokens, by a mask: its cache keeps all of them all the same.
    """
    own = today(
        config,
        _NAMES,
        hidden_size=2048,
        num_hidden_layers=24,
        num_attention_heads=16,
        max_position_embeddings=2048,
        vocab_size=50_257,
    )
    block = attention(own, out_bias=True)
    width = own.integer("intermediate_size", default=4 * block.hidden)
    feed = mlp(own, intermediate=width, gated=False, bias=True)
    layers = stack(block, (None,) * n_layers(own), feed, norms(block.hidden, "ln_1", "ln_2", bias=True))
    rows = own.integer("max_position_embeddings")
    positions = Weight(name="positions", shape=(rows, block.hidden), role=Role.NORM)
    final = norms(block.hidden, "ln_f", bias=True)
    return decoder(own, layers, tied=True, final_norm=final, embedding_extras=(positions,))
