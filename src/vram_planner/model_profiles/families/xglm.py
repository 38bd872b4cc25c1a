"""XGLM 564M to 7.5B: positions that are computed, biases everywhere, a tied head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers, norms, stack
from vram_planner.model_profiles.families.names import today

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


_NAMES = {
    "hidden_size": "d_model",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "attention_heads",
    "intermediate_size": "ffn_dim",
}


def build(config: Config) -> Architecture:
    """Source: transformers models/xglm/modeling_xglm.py; defaults of XGLMConfig."""
    own = today(
        config,
        _NAMES,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=2048,
        vocab_size=256_008,
    )
    block = attention(own, qkv_bias=True, out_bias=True)
    feed = mlp(own, gated=False, bias=True)
    around = norms(block.hidden, "self_attn_layer_norm", "final_layer_norm", bias=True)
    layers = stack(block, (None,) * n_layers(own), feed, around)
    return decoder(own, layers, tied=True, final_norm=norms(block.hidden, "layer_norm", bias=True))
