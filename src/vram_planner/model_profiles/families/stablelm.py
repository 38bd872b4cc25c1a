"""StableLM 3B and StableLM 2: layer norms with a shift."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    """Source: transformers models/stablelm/modeling_stablelm.py; `qk_layernorm` has a norm for each single head."""
    bare = attention(config)
    widths = None
    if config.flag("qk_layernorm", default=False):
        widths = (bare.n_heads * bare.head_dim, bare.n_kv_heads * bare.head_dim)
    block = attention(config, qkv_bias=config.flag("use_qkv_bias", default=False), qk_norm=widths)
    parallel = config.flag("use_parallel_residual", default=False)
    around = norms(block.hidden, *(RMS_NORMS[:1] if parallel else RMS_NORMS), bias=True)
    layers = stack(block, (None,) * n_layers(config), mlp(config), around)
    return decoder(config, layers, final_norm=norms(block.hidden, "norm", bias=True))
