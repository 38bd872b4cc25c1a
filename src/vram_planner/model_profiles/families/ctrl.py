"""CTRL 1.6B: positions that are computed, biases everywhere, a tied head with a bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers, norms, stack
from vram_planner.model_profiles.families.names import GPT_NAMES, today

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """Source: transformers models/ctrl/modeling_ctrl.py; defaults of CTRLConfig."""
    own = today(
        config,
        GPT_NAMES | {"intermediate_size": "dff"},
        hidden_size=1280,
        num_hidden_layers=48,
        num_attention_heads=16,
        intermediate_size=8192,
        max_position_embeddings=256,
        vocab_size=246_534,
    )
    block = attention(own, qkv_bias=True, out_bias=True)
    around = norms(block.hidden, "layernorm1", "layernorm2", bias=True)
    layers = stack(block, (None,) * n_layers(own), mlp(own, gated=False, bias=True), around)
    final = norms(block.hidden, "layernorm", bias=True)
    return decoder(own, layers, tied=True, final_norm=final, head_bias=True)
