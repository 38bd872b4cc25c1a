"""RecurrentGemma (Griffin): two linear recurrent units to one layer of local attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture.attention import SlidingWindow
from vram_planner.architecture.rnn import LinearRecurrentUnit
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.common import attention, decoder, hidden_size, mlp, n_layers, norms
from vram_planner.model_profiles.families.hybrid import Parts, assemble

if TYPE_CHECKING:
    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS: Final = {
    "vocab_size": 256_000,
    "hidden_size": 2560,
    "intermediate_size": 7680,
    "num_hidden_layers": 26,
    "num_attention_heads": 10,
    "attention_window_size": 2048,
}
_PATTERN: Final = ("recurrent", "recurrent", "attention")


def build(config: Config) -> Architecture:
    """Source: transformers models/recurrent_gemma/modeling_recurrent_gemma.py; the blocks' pattern repeats."""
    config = config.with_defaults(_DEFAULTS)
    hidden = hidden_size(config)
    bias = config.flag("attention_bias", default=False)
    # RecurrentGemmaConfig works out head_dim itself, whatever the file says.
    local = attention(config, qkv_bias=bias, out_bias=True)
    mixers: dict[str, Mixer] = {
        "attention": SlidingWindow(inner=local, window=config.integer("attention_window_size", most=10**9)),
        "recurrent": _unit(config),
    }
    pattern = config.texts("block_types", default=_PATTERN)
    if not pattern or set(pattern) - set(mixers):
        raise ConfigError(
            f"{config.where}block_types has a kind of block that we do not know",
            hint=f"it is a list of {' and '.join(mixers)}",
        )
    # The config's size counts gate and up together.
    feed = mlp(config, intermediate=max(1, config.integer("intermediate_size") // 2), bias=True)
    around = norms(hidden, "temporal_pre_norm", "channel_pre_norm")
    rows = (Parts(mixers[pattern[index % len(pattern)]], feed, around) for index in range(n_layers(config)))
    return decoder(config, assemble(rows), tied=True, capped_logits=True)


def _unit(config: Config) -> LinearRecurrentUnit:
    hidden, heads = hidden_size(config), config.integer("num_attention_heads", most=10**5)
    width = config.integer("lru_width", default=hidden)
    if width % heads:
        raise ConfigError(
            f"{config.where}lru_width ({width}) is no multiple of num_attention_heads ({heads})",
            hint="the unit's gates are cut into as many blocks as there are heads",
        )
    kernel = config.integer("conv1d_width", default=4, most=10**3)
    return LinearRecurrentUnit(hidden=hidden, width=width, heads=heads, kernel=kernel)
