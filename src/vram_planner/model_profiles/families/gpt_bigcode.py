"""StarCoder 1, SantaCoder, WizardCoder: GPT-2 with one KV head for all query heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, Weight
from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers, norms, stack
from vram_planner.model_profiles.families.names import GPT_NAMES, today

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """Source: transformers models/gpt_bigcode/modeling_gpt_bigcode.py; defaults of GPTBigCodeConfig."""
    own = today(
        config,
        GPT_NAMES,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=1024,
        vocab_size=50_257,
    )
    kv_heads = 1 if own.flag("multi_query", default=True) else None
    block = attention(own, kv_heads=kv_heads, qkv_bias=True, out_bias=True, fused_qkv=True)
    width = own.integer("intermediate_size", default=4 * block.hidden)
    feed = mlp(own, intermediate=width, gated=False, bias=True)
    layers = stack(block, (None,) * n_layers(own), feed, norms(block.hidden, "ln_1", "ln_2", bias=True))
    rows = own.integer("max_position_embeddings")
    positions = Weight(name="positions", shape=(rows, block.hidden), role=Role.NORM)
    final = norms(block.hidden, "ln_f", bias=True)
    return decoder(own, layers, tied=True, final_norm=final, embedding_extras=(positions,))
