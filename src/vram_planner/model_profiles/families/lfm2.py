"""LFM2: gated short convolutions with a few layers of attention between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture.recurrent import ShortConv
from vram_planner.model_profiles.families.common import attention, decoder, hidden_size, mlp, n_layers, norms
from vram_planner.model_profiles.families.hybrid import FULL, Parts, assemble, factor, kinds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture, Layer
    from vram_planner.model_profiles.config import Config

CONV: Final = "conv"
NORMS: Final = ("operator_norm", "ffn_norm")
_DEFAULTS: Final = {
    "vocab_size": 65_536,
    "hidden_size": 2560,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128_000,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/lfm2/modeling_lfm2.py and Lfm2Config.__post_init__; without a list all attend."""
    config = config.with_defaults({**_DEFAULTS, "tie_word_embeddings": config.raw("tie_embedding")})
    count = n_layers(config)
    full = frozenset(config.integers("full_attn_idxs", default=tuple(range(count))))
    usual = tuple(FULL if index in full else CONV for index in range(count))
    found = kinds(config, count, (CONV, FULL), usual, keys=("layer_types",))
    feed = mlp(config, intermediate=_intermediate(config))
    return decoder(config, conv_layers(config, found, [feed] * count), tied=True)


def conv_layers(config: Config, found: Sequence[str], feeds: Sequence[FeedForward]) -> tuple[Layer, ...]:
    """Convolutions and attention with norms over each head. Source: Lfm2ShortConv, Lfm2Attention."""
    hidden = hidden_size(config)
    width = attention(config).head_dim
    mixers: dict[str, Mixer] = {
        CONV: short_conv(config, kernel=3),
        FULL: attention(config, qk_norm=(width, width)),
    }
    around = norms(hidden, *NORMS)
    return assemble(Parts(mixers[kind], feed, around) for kind, feed in zip(found, feeds, strict=True))


def short_conv(config: Config, *, kernel: int) -> ShortConv:
    """The convolution; `kernel` is the family's default of `conv_L_cache`."""
    return ShortConv(
        hidden=hidden_size(config),
        kernel=config.integer("conv_L_cache", default=kernel, most=10**3),
        bias=config.flag("conv_bias", default=False),
    )


def _intermediate(config: Config) -> int:
    """Two thirds of the size in the config, times a factor, rounded up to a multiple. Source: Lfm2MLP."""
    width = config.integer("block_ff_dim", "intermediate_size", default=12_288)
    if not config.flag("block_auto_adjust_ff_dim", default=True):
        return width
    width = int(2 * width / 3)
    if config.raw("block_ffn_dim_multiplier") is None and config.has("block_ffn_dim_multiplier"):
        return max(1, width)
    width = int(factor(config, "block_ffn_dim_multiplier", 1.0) * width)
    multiple = config.integer("block_multiple_of", default=256)
    return max(1, multiple * -(-width // multiple))
