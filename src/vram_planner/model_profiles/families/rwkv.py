"""RWKV-4 (Pile, Raven): time mixing and channel mixing, no attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture.model import Layer
from vram_planner.architecture.rnn import Rwkv, RwkvChannelMix
from vram_planner.model_profiles.families.common import decoder, hidden_size, n_layers, norms

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS: Final = {"vocab_size": 50_277, "hidden_size": 4096, "num_hidden_layers": 32}


def build(config: Config) -> Architecture:
    """Source: transformers models/rwkv/modeling_rwkv.py; the first layer has a third norm."""
    config = config.with_defaults(_DEFAULTS)
    hidden = hidden_size(config)
    mixer = Rwkv(hidden=hidden, inner=config.integer("attention_hidden_size", default=hidden))
    feed = RwkvChannelMix(hidden=hidden, intermediate=config.integer("intermediate_size", default=4 * hidden))
    around = norms(hidden, "ln1", "ln2", bias=True)
    first = Layer(mixer=mixer, feed_forward=feed, norms=(*norms(hidden, "pre_ln", bias=True), *around))
    layer = Layer(mixer=mixer, feed_forward=feed, norms=around)
    return decoder(
        config,
        (first, *(layer,) * (n_layers(config) - 1)),
        final_norm=norms(hidden, "ln_out", bias=True),
        max_context=config.integer("context_length", default=1024, most=10**9),
    )
