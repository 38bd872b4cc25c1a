"""BioGPT: learned positions with two rows to spare, biases everywhere, a tied head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, Weight
from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers, norms, stack

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


_DEFAULTS = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "max_position_embeddings": 1024,
    "vocab_size": 42_384,
}
_SPARE = 2


def build(config: Config) -> Architecture:
    """Source: transformers models/biogpt/modeling_biogpt.py; defaults of BioGptConfig."""
    own = config.with_defaults(_DEFAULTS)
    block = attention(own, qkv_bias=True, out_bias=True)
    around = norms(block.hidden, "self_attn_layer_norm", "final_layer_norm", bias=True)
    layers = stack(block, (None,) * n_layers(own), mlp(own, gated=False, bias=True), around)
    rows = own.integer("max_position_embeddings") + _SPARE
    positions = Weight(name="positions", shape=(rows, block.hidden), role=Role.NORM)
    final = norms(block.hidden, "layer_norm", bias=True)
    return decoder(own, layers, tied=True, final_norm=final, embedding_extras=(positions,))
