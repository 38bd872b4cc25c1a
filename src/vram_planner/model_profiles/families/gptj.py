"""GPT-J 6B: attention and MLP side by side under one norm, a head with a bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers, norms, stack
from vram_planner.model_profiles.families.names import GPT_NAMES, today

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """Source: transformers models/gptj/modeling_gptj.py; defaults of GPTJConfig."""
    return build_parallel(config, fused_qkv=False)


def build_parallel(config: Config, *, fused_qkv: bool) -> Architecture:
    """CodeGen is the same with one matrix for q, k and v."""
    own = today(
        config,
        GPT_NAMES,
        hidden_size=4096,
        num_hidden_layers=28,
        num_attention_heads=16,
        max_position_embeddings=2048,
        vocab_size=50_400,
    )
    block = attention(own, fused_qkv=fused_qkv)
    width = own.integer("intermediate_size", default=4 * block.hidden)
    feed = mlp(own, intermediate=width, gated=False, bias=True)
    layers = stack(block, (None,) * n_layers(own), feed, norms(block.hidden, "ln_1", bias=True))
    return decoder(own, layers, final_norm=norms(block.hidden, "ln_f", bias=True), head_bias=True)
