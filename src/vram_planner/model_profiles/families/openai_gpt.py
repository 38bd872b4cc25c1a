"""GPT-1: learned positions, norms after the blocks, no cache at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.model import Layer
from vram_planner.architecture.passes import Uncached
from vram_planner.architecture.weight import Role, Weight
from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers, norms
from vram_planner.model_profiles.families.names import GPT_NAMES, today

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


_NOTE = "transformers' module keeps no KV cache: each token computes the whole context anew"


def build(config: Config) -> Architecture:
    """Source: transformers models/openai/modeling_openai.py; defaults of OpenAIGPTConfig."""
    own = today(
        config,
        {key: name for key, name in GPT_NAMES.items() if key != "intermediate_size"},
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=512,
        vocab_size=40_478,
    )
    block = attention(own, qkv_bias=True, out_bias=True, fused_qkv=True)
    layer = Layer(
        mixer=Uncached(inner=block),
        feed_forward=mlp(own, intermediate=4 * block.hidden, gated=False, bias=True),
        norms=norms(block.hidden, "ln_1", "ln_2", bias=True),
    )
    positions = Weight(
        name="positions", shape=(own.integer("max_position_embeddings"), block.hidden), role=Role.NORM
    )
    return decoder(
        own,
        (layer,) * n_layers(own),
        tied=True,
        final_norm=(),
        embedding_extras=(positions,),
        notes=(_NOTE,),
    )
