"""Zamba 7B: Mamba throughout, and one block of attention and MLP that runs again in every sixth layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture.attention import FullAttention
from vram_planner.architecture.feed_forward import DenseMLP, NoFeedForward
from vram_planner.architecture.model import Layer
from vram_planner.architecture.passes import Rerun
from vram_planner.architecture.recurrent import Mamba
from vram_planner.architecture.side_by_side import SideBySide
from vram_planner.architecture.weight import linear
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.common import decoder, hidden_size, mlp, n_layers, norms
from vram_planner.model_profiles.families.hybrid import LINEAR, kinds, step_rank

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.recurrent import Mamba2
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

HYBRID: Final = "hybrid"
_DEFAULTS: Final = {
    "vocab_size": 32_000,
    "hidden_size": 3712,
    "intermediate_size": 14_848,
    "num_hidden_layers": 76,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 4096,
    "n_mamba_heads": 2,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "attn_layer_period": 6,
    "attn_layer_offset": 4,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/zamba/modeling_zamba.py and ZambaConfig.__post_init__."""
    config = config.with_defaults(_DEFAULTS)
    hidden = hidden_size(config)
    mamba = Mamba(
        hidden=hidden,
        inner=config.integer("mamba_expand", most=10**3) * hidden,
        state_size=config.integer("mamba_d_state", most=10**5),
        step_rank=step_rank(config, "mamba_dt_rank"),
        kernel=config.integer("mamba_d_conv", most=10**3),
        conv_bias=config.flag("mamba_conv_bias"),
        bias=config.flag("mamba_proj_bias"),
        heads=config.integer("n_mamba_heads", most=10**4),
    )
    refuse_untied(config)
    found = kinds(config, None, (LINEAR, HYBRID), _usual(config), keys=("layers_block_type",))
    layers = shared_layers(mamba, found, [(shared_attention(config), mlp(config))])
    return decoder(config, layers, tied=True)


def _usual(config: Config) -> tuple[str, ...]:
    """The third layer, then each that falls on the period, counted from the fourth."""
    period = config.integer("attn_layer_period")
    offset = config.integer("attn_layer_offset", least=0)
    rest = range(max(0, n_layers(config) - 3))
    return (LINEAR, LINEAR, HYBRID, *(HYBRID if index % period == offset else LINEAR for index in rest))


def refuse_untied(config: Config) -> None:
    """Of a model that is not tied: there each layer has a shared block of its own. Source: PreTrainedModel.tie_weights."""
    if not config.flag("tie_word_embeddings", default=True):
        raise ConfigError(
            f"{config.where}tie_word_embeddings is false, which no published Zamba has",
            hint="each layer would then hold a copy of the shared block: set it to true",
        )


def shared_attention(config: Config) -> FullAttention:
    """It reads the stream beside the embeddings, twice as wide. Source: ZambaAttention."""
    hidden, heads = hidden_size(config), config.integer("num_attention_heads", most=10**5)
    return FullAttention(
        hidden=hidden,
        n_heads=heads,
        n_kv_heads=config.integer("num_key_value_heads", default=heads, most=10**5),
        head_dim=config.integer("attention_head_dim", default=max(1, 2 * hidden // heads), most=10**5),
        input_width=config.integer("attention_hidden_size", default=2 * hidden),
    )


def shared_layers(
    recurrent: Mamba | Mamba2,
    found: tuple[str, ...],
    blocks: list[tuple[FullAttention, DenseMLP]],
    adapters: tuple[Weight, ...] = (),
) -> tuple[Layer, ...]:
    """
    Recurrent layers; the hybrid ones also run one of the shared `blocks` in turn, whose weights the first run has.

    `adapters` are what each hybrid layer adds to its block. Source: ZambaHybridLayer, Zamba2Model.get_layers.
    """
    hidden = recurrent.hidden
    own = norms(hidden, "mamba_decoder.input_layernorm")
    plain = Layer(mixer=recurrent, feed_forward=NoFeedForward(), norms=own)
    extras = (*linear("linear", hidden, hidden), *adapters)
    first, again = [], []
    for attention, feed in blocks:
        around = (
            *norms(attention.input_width or hidden, "input_layernorm"),
            *norms(hidden, "pre_ff_layernorm"),
        )
        block = Layer(mixer=attention, feed_forward=feed, norms=around)
        side = SideBySide(attention=attention, recurrent=recurrent, extras=extras)
        rerun = Rerun(inner=attention, parameters=block.parameters)
        twin = SideBySide(attention=rerun, recurrent=recurrent, extras=extras)
        first.append(Layer(mixer=side, feed_forward=feed, norms=(*own, *around)))
        again.append(Layer(mixer=twin, feed_forward=NoFeedForward(), norms=own))
    layers, seen = [], 0
    for kind in found:
        if kind == LINEAR:
            layers.append(plain)
            continue
        layers.append((first if seen < len(blocks) else again)[seen % len(blocks)])
        seen += 1
    return tuple(layers)
