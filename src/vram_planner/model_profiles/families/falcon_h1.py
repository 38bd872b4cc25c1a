"""Falcon-H1: every layer runs Mamba-2 and attention side by side, and keeps both a state and a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.model import Layer
from vram_planner.architecture.side_by_side import SideBySide
from vram_planner.model_profiles.families.bamba import BAMBA_DEFAULTS, NORMS, with_heads
from vram_planner.model_profiles.families.common import attention, decoder, hidden_size, mlp, n_layers, norms
from vram_planner.model_profiles.families.hybrid import mamba_2

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_CHANNELS = 1024


def build(config: Config) -> Architecture:
    """
    Source: transformers models/falcon_h1/modeling_falcon_h1.py.

    A config without `mamba_d_ssm` has 1024 channels; one with null has `mamba_expand` × `hidden_size`.
    """
    config = with_heads(config.with_defaults({**BAMBA_DEFAULTS, "max_position_embeddings": 8192}))
    channels = config.optional_integer("mamba_d_ssm")
    if channels is None and not config.has("mamba_d_ssm"):
        channels = _CHANNELS
    bias = config.flag("attention_bias")
    mixer = SideBySide(
        attention=attention(config, qkv_bias=bias, out_bias=bias),
        recurrent=mamba_2(
            config,
            inner=channels,
            out_bias=config.flag("projectors_bias", default=False),
            gated_norm=config.flag("mamba_rms_norm", default=False),
        ),
    )
    feed = mlp(config, bias=config.flag("mlp_bias"))
    layer = Layer(mixer=mixer, feed_forward=feed, norms=norms(hidden_size(config), *NORMS))
    return decoder(config, (layer,) * n_layers(config))
