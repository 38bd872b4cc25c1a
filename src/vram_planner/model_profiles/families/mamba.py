"""Mamba and Falcon Mamba: state spaces alone, no attention and no feed-forward blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture.feed_forward import NoFeedForward
from vram_planner.architecture.model import Layer
from vram_planner.architecture.recurrent import Mamba
from vram_planner.model_profiles.families.common import decoder, hidden_size, n_layers, norms
from vram_planner.model_profiles.families.hybrid import step_rank

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS: Final = {
    "vocab_size": 50_280,
    "hidden_size": 768,
    "state_size": 16,
    "num_hidden_layers": 32,
    "expand": 2,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
}


def build(config: Config) -> Architecture:
    """
    Source: transformers models/mamba/modeling_mamba.py, models/falcon_mamba/modeling_falcon_mamba.py.

    Falcon Mamba's norms on step, B and C have no weights.
    """
    config = config.with_defaults(_DEFAULTS)
    hidden = hidden_size(config)
    mixer = Mamba(
        hidden=hidden,
        inner=config.integer("intermediate_size", default=config.integer("expand", most=10**3) * hidden),
        state_size=config.integer("state_size", most=10**5),
        step_rank=step_rank(config, "time_step_rank"),
        kernel=config.integer("conv_kernel", most=10**3),
        conv_bias=config.flag("use_conv_bias"),
        bias=config.flag("use_bias"),
    )
    layer = Layer(mixer=mixer, feed_forward=NoFeedForward(), norms=norms(hidden, "norm"))
    return decoder(config, (layer,) * n_layers(config), tied=True)
