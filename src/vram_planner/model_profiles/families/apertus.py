"""Apertus: one norm a head over queries and keys, no gate, an activation with two learned numbers (xIELU)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, Weight
from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers, norms, stack

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

# ApertusConfig's own defaults.
_DEFAULTS = {
    "vocab_size": 131_072,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 65_536,
    "hidden_act": "xielu",
}


def build(config: Config) -> Architecture:
    """Source: transformers models/apertus/modeling_apertus.py; XIELUActivation in activations.py."""
    config = config.with_defaults(_DEFAULTS)
    bias = config.flag("attention_bias", default=False)
    width = attention(config).head_dim
    block = attention(config, qkv_bias=bias, out_bias=bias, qk_norm=(width, width))
    small = norms(block.hidden, "attention_layernorm", "feedforward_layernorm")
    if config.text("hidden_act") == "xielu":
        # beta and eps are two scalars that are stored, yet no parameters.
        small += (
            *norms(1, "mlp.act_fn.alpha_p", "mlp.act_fn.alpha_n"),
            Weight(name="mlp.act_fn.constants", shape=(2,), role=Role.BUFFER),
        )
    layers = stack(block, (None,) * n_layers(config), mlp(config, gated=False), small)
    return decoder(config, layers)
