"""Llama-Nemotron Super and Ultra, DeciLM: Llama from which a search removed attention and narrowed MLPs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.attention import NoMixer
from vram_planner.architecture.feed_forward import NoFeedForward
from vram_planner.architecture.model import Layer
from vram_planner.errors import ConfigError, UnsupportedArchitectureError
from vram_planner.model_profiles.config import Config
from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers, norms
from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight

_ROUND = 256
_WIDEST = 100


def build(config: Config) -> Architecture:
    """
    Source: nvidia/Llama-3_3-Nemotron-Super-49B-v1 modeling_decilm.py; read as in vLLM's models/nemotron_nas.py.

    A layer without attention keeps no cache, and has no norm before it.
    """
    count, blocks = n_layers(config), config.raw("block_configs")
    if not isinstance(blocks, list) or len(blocks) != count or not all(isinstance(b, dict) for b in blocks):
        raise ConfigError(
            f"block_configs is no list of {count} objects",
            hint="give one entry for each of num_hidden_layers: without it the layers cannot be known",
        )
    made: dict[str, Layer] = {}
    layers = []
    for index, raw in enumerate(blocks):
        block = Config(raw, where=f"block_configs[{index}].", outer=config)
        key = repr(sorted(raw.items()))
        if key not in made:
            made[key] = _layer(config, block)
        layers.append(made[key])
    if all(isinstance(layer.mixer, NoMixer) for layer in layers):
        raise ConfigError("no layer has attention", hint="correct 'block_configs' in the config.json")
    return decoder(config, tuple(layers))


def _layer(config: Config, block: Config) -> Layer:
    """One entry of `block_configs`: its attention and its feed-forward block, each of which may be absent."""
    attends, feeds = block.sub("attention"), block.sub("ffn")
    for part in (attends, feeds):
        if part.flag("replace_with_linear", default=False):
            raise UnsupportedArchitectureError(
                f"{part.where}replace_with_linear is not supported",
                hint="vLLM does not read such layers either; no published Nemotron has them",
            )
    mixer, around = _mixer(config, attends)
    feed, after = _feed(config, feeds)
    return Layer(mixer=mixer, feed_forward=feed, norms=(*around, *after))


def _mixer(config: Config, part: Config) -> tuple[Mixer, tuple[Weight, ...]]:
    if part.flag("no_op", default=False):
        return NoMixer(), ()
    if part.raw("window_length", "num_sink_tokens") is not None:
        raise UnsupportedArchitectureError(
            f"{part.where}window_length is not supported",
            hint="no published Nemotron has windows; vLLM does not read them",
        )
    heads = config.integer("num_attention_heads", most=10**5)
    group = part.integer("n_heads_in_group", most=heads)
    bias = config.flag("attention_bias", default=False)
    # The outer num_key_value_heads is null in these configs: the layer says it.
    own = config.with_defaults({"num_key_value_heads": max(1, heads // group)})
    block = attention(own, qkv_bias=bias, out_bias=bias)
    return block, norms(block.hidden, "input_layernorm")


def _feed(config: Config, part: Config) -> tuple[FeedForward, tuple[Weight, ...]]:
    if part.flag("no_op", default=False):
        return NoFeedForward(), ()
    hidden = config.integer("hidden_size", most=10**6)
    width = part.optional_integer("intermediate_size") or ffn_width(part, hidden)
    feed = mlp(config, intermediate=width, bias=config.flag("mlp_bias", default=False))
    return feed, norms(hidden, "post_attention_layernorm")


def ffn_width(part: Config, hidden: int) -> int:
    """
    ⌈⌊2·m·H / 3⌋⌉ to a multiple of 256, m = `ffn_mult`, H = hidden size.

    Source: _ffn_mult_to_intermediate_size in vLLM model_executor/models/nemotron_nas.py.
    """
    times = part.number("ffn_mult")
    if not 0 < times <= _WIDEST:
        raise ConfigError(
            f"{part.where}ffn_mult is {times:g}, which is not between 0 and {_WIDEST}",
            hint="correct 'ffn_mult' in the config.json",
        )
    return max(1, ceil_div(int(2 * times * hidden / 3), _ROUND)) * _ROUND
