"""Phi-1, Phi-1.5 and Phi-2: attention and MLP side by side under one norm, biases everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers, norms, stack

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """Source: transformers models/phi/modeling_phi.py."""
    block = attention(config, qkv_bias=True, out_bias=True)
    extra: tuple[str, ...] = ()
    if config.flag("qk_layernorm", default=False):
        extra = ("q_layernorm", "k_layernorm")
    around = norms(block.hidden, "input_layernorm", bias=True) + norms(block.head_dim, *extra, bias=True)
    layers = stack(block, (None,) * n_layers(config), mlp(config, gated=False, bias=True), around)
    return decoder(config, layers, final_norm=norms(block.hidden, "norm", bias=True), head_bias=True)
