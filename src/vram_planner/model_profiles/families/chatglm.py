"""ChatGLM 2 and 3, GLM-4 9B in its first form: few KV heads, one matrix for q, k and v, one for gate and up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.errors import UnsupportedArchitectureError
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    mlp,
    n_layers,
    norms,
    stack,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """
    Source: THUDM/ChatGLM2-6B's modeling_chatglm.py; read again as vLLM has it, model_executor/models/chatglm.py.

    The first ChatGLM has other layers under the same name, GLM-4V a tower: both are refused.
    """
    if config.raw("ffn_hidden_size") is None or config.raw("vision_config") is not None:
        raise UnsupportedArchitectureError(
            "of the family 'chatglm' only ChatGLM 2, ChatGLM 3 and GLM-4 9B are read",
            hint="ChatGLM 1 and GLM-4V have other layers; for GLM-4 take the -hf checkpoint of it",
        )
    everywhere = config.flag("add_bias_linear", default=True)
    kv_heads = None
    if config.flag("multi_query_attention", default=False):
        kv_heads = config.integer("multi_query_group_num", default=1, most=10**5)
    block = attention(
        config,
        head_dim=config.optional_integer("kv_channels"),
        kv_heads=kv_heads,
        qkv_bias=everywhere or config.flag("add_qkv_bias", default=False),
        out_bias=everywhere,
        fused_qkv=True,
    )
    feed = mlp(config, intermediate=config.integer("ffn_hidden_size"), fused=True, bias=everywhere)
    shift = not config.flag("rmsnorm", default=True)
    layers = stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *RMS_NORMS, bias=shift))
    last = config.flag("post_layer_norm", default=True)
    return decoder(
        config,
        layers,
        final_norm=norms(block.hidden, "final_layernorm", bias=shift) if last else (),
        max_context=config.optional_integer("seq_length"),
    )
