"""LFM3: short convolutions between layers of sliding and full attention, norms on both sides of each block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture.attention import SlidingWindow
from vram_planner.architecture.weight import linear
from vram_planner.model_profiles.families.common import attention, decoder, hidden_size, mlp, n_layers, norms
from vram_planner.model_profiles.families.hybrid import FULL, Parts, assemble, kinds
from vram_planner.model_profiles.families.lfm2 import CONV, NORMS, short_conv
from vram_planner.model_profiles.families.patterns import SLIDING

if TYPE_CHECKING:
    from vram_planner.architecture.attention import FullAttention, Mixer
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS: Final = {
    "vocab_size": 128_000,
    "hidden_size": 2048,
    "intermediate_size": 7680,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "max_position_embeddings": 128_000,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/lfm3/modeling_lfm3.py and Lfm3Config.__post_init__."""
    silent = not config.has("sliding_window")
    config = config.with_defaults(_DEFAULTS)
    hidden, count = hidden_size(config), n_layers(config)
    full = _attention(config)
    window = 256 if silent else config.optional_integer("sliding_window")
    sliding = full if window is None else SlidingWindow(inner=full, window=window)
    mixers: dict[str, Mixer] = {CONV: short_conv(config, kernel=7), FULL: full, SLIDING: sliding}
    around = norms(hidden, *NORMS)
    if config.flag("use_sandwich_norm", default=True):
        around += norms(hidden, "post_operator_norm", "post_ffn_norm")
    feed = mlp(config)
    usual = tuple(_usual(index) for index in range(count))
    found = kinds(config, count, tuple(mixers), usual, keys=("layer_types",))
    return decoder(config, assemble(Parts(mixers[kind], feed, around) for kind in found), tied=True)


def _usual(index: int) -> str:
    if index % 4 == 2:  # noqa: PLR2004  one in four attends to all, the one between slides
        return FULL
    return SLIDING if index % 4 == 0 and index else CONV


def _attention(config: Config) -> FullAttention:
    """Norms over each head, and a gate for each head unless `use_attention_gate` is false."""
    plain = attention(config)
    bias = config.flag("attention_bias", default=False)
    gate = linear("g_proj", plain.n_heads, plain.hidden, units=plain.n_heads)
    return attention(
        config,
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=(plain.head_dim, plain.head_dim),
        extras=gate if config.flag("use_attention_gate", default=True) else (),
    )
