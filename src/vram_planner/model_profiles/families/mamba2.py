"""Mamba-2 and Mamba-Codestral: state spaces alone, with heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture.feed_forward import NoFeedForward
from vram_planner.architecture.model import Layer
from vram_planner.architecture.recurrent import Mamba2
from vram_planner.model_profiles.families.common import decoder, hidden_size, n_layers, norms
from vram_planner.model_profiles.families.hybrid import checked

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS: Final = {
    "num_heads": 128,
    "head_dim": 64,
    "vocab_size": 32_768,
    "hidden_size": 4096,
    "state_size": 128,
    "num_hidden_layers": 64,
    "expand": 2,
    "conv_kernel": 4,
    "n_groups": 8,
    "use_bias": False,
    "use_conv_bias": True,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/mamba2/modeling_mamba2.py."""
    config = config.with_defaults(_DEFAULTS)
    hidden = hidden_size(config)
    bias = config.flag("use_bias")
    mixer = checked(
        config,
        Mamba2(
            hidden=hidden,
            inner=config.integer("expand", most=10**3) * hidden,
            heads=config.integer("num_heads", most=10**5),
            head_dim=config.integer("head_dim", most=10**5),
            groups=config.integer("n_groups", most=10**5),
            state_size=config.integer("state_size", most=10**5),
            kernel=config.integer("conv_kernel", most=10**3),
            conv_bias=config.flag("use_conv_bias"),
            bias=bias,
            out_bias=bias,
        ),
    )
    layer = Layer(mixer=mixer, feed_forward=NoFeedForward(), norms=norms(hidden, "norm"))
    return decoder(config, (layer,) * n_layers(config))
