"""Solar Open: experts with a shared one in every layer, heads of their own width."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import RMS_NORMS, attention, decoder, n_layers, norms, stack
from vram_planner.model_profiles.families.deepseek_v2 import latent_experts

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 196_608,
    "hidden_size": 4096,
    "num_hidden_layers": 48,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "moe_intermediate_size": 1280,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "max_position_embeddings": 131_072,
}
_HEAD_DIM = 128
_EXPERTS = 128


def build(config: Config) -> Architecture:
    """Source: transformers models/solar_open/modeling_solar_open.py; no bias on the output projection."""
    config = config.with_defaults(_DEFAULTS)
    if config.raw("n_routed_experts", "num_local_experts") is None:
        config = config.with_defaults({"n_routed_experts": _EXPERTS})
    block = attention(config, head_dim=_HEAD_DIM, qkv_bias=config.flag("attention_bias", default=False))
    feed = latent_experts(config, correction_bias=True)
    return decoder(config, stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *RMS_NORMS)))
