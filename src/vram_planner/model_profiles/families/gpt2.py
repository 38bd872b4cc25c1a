"""GPT-2: learned positions, a tied head, biases everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, Weight
from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers, norms, stack

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_POSITIONS = 1024


def build(config: Config) -> Architecture:
    """Source: transformers models/gpt2/modeling_gpt2.py."""
    block = attention(config, qkv_bias=True, out_bias=True, fused_qkv=True)
    width = config.integer("n_inner", default=4 * block.hidden)
    feed = mlp(config, intermediate=width, gated=False, bias=True)
    layers = stack(block, (None,) * n_layers(config), feed, norms(block.hidden, "ln_1", "ln_2", bias=True))
    rows = config.integer("n_positions", "max_position_embeddings", default=_POSITIONS)
    positions = Weight(name="positions", shape=(rows, block.hidden), role=Role.NORM)
    final = norms(block.hidden, "ln_f", bias=True)
    return decoder(
        config, layers, tied=True, final_norm=final, embedding_extras=(positions,), max_context=_POSITIONS
    )
