"""
Decoders of encoder-decoder models, alone: BART, mBART, Marian, Pegasus, Whisper and their kin.

`AutoModelForCausalLM` builds them without the encoder. Their layers still hold the cross-attention to it, which is
idle then: it counts among the weights, is not read, and keeps no keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from vram_planner.architecture.feed_forward import OTHER_EXPERTS
from vram_planner.architecture.weight import Role, Weight, linear, row_linear
from vram_planner.errors import UnsupportedArchitectureError
from vram_planner.model_profiles.families import model_type_of
from vram_planner.model_profiles.families.common import (
    attention,
    decoder,
    hidden_size,
    mlp,
    n_layers,
    norms,
    stack,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.architecture.attention import FullAttention
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

NOTE: Final = (
    "the decoder alone: its cross-attention counts among the weights but looks at nothing, "
    "and no keys and values of an encoder's output are cached"
)
_UNREAD: Final = OTHER_EXPERTS[1]  # how the names of tensors begin that no token of text uses
CROSS_NORM: Final = f"{_UNREAD}encoder_attn_layer_norm"
_SPARE: Final = 2  # rows that BART's table of positions has more than positions
# Today's names of the decoder's figures, and what the configs call them.
NAMES: Final = {
    "hidden_size": ("d_model", "hidden_size"),
    "num_hidden_layers": ("decoder_layers",),
    "num_attention_heads": ("decoder_attention_heads",),
    "intermediate_size": ("decoder_ffn_dim",),
    "max_position_embeddings": ("max_position_embeddings",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """
    In what one family differs from BART.

    `defaults` are those of its config class, `spare` the rows of the table of positions beyond the positions.
    `first_norm` and `last_norm` say whether there is a norm after the embedding and one after the last layer.
    `can_tie` False: the class has a head of its own whatever the config says (BigBirdPegasus).
    `key_bias` False: queries and values have biases, keys have none (Whisper). `bias_key` decides about the biases
    of attention where there is one. `optional` says that the config decides about positions, norm and the encoder's
    width (TrOCR). `names` replace some of the usual keys.
    """

    defaults: dict[str, Any]
    spare: int = 0
    first_norm: bool = True
    last_norm: bool = False
    can_tie: bool = True
    key_bias: bool = True
    bias_key: str = ""
    optional: bool = False
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)


def sizes(hidden: int, layers: int, heads: int, rows: int, vocabulary: int) -> dict[str, int]:
    """A config class's defaults, under today's names."""
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "max_position_embeddings": rows,
        "vocab_size": vocabulary,
    }


_KINDS: Final = {
    "bart": Kind(defaults=sizes(1024, 12, 16, 1024, 50_265), spare=_SPARE),
    "bigbird_pegasus": Kind(defaults=sizes(1024, 16, 16, 4096, 96_103), can_tie=False, bias_key="use_bias"),
    "blenderbot": Kind(defaults=sizes(2560, 24, 32, 128, 8008), first_norm=False, last_norm=True),
    "blenderbot-small": Kind(defaults=sizes(512, 8, 16, 512, 50_265)),
    "marian": Kind(defaults=sizes(1024, 12, 16, 1024, 58_101), first_norm=False),
    "mbart": Kind(defaults=sizes(1024, 12, 16, 1024, 50_265), spare=_SPARE, last_norm=True),
    "mvp": Kind(defaults=sizes(1024, 12, 16, 1024, 50_267), spare=_SPARE),
    "pegasus": Kind(defaults=sizes(1024, 12, 16, 1024, 50_265), first_norm=False, last_norm=True),
    "plbart": Kind(defaults=sizes(768, 6, 12, 1024, 50_005), spare=_SPARE),
    "trocr": Kind(
        defaults=sizes(1024, 12, 16, 512, 50_265),
        spare=_SPARE,
        optional=True,
        names={
            "num_hidden_layers": ("decoder_layers", "num_hidden_layers"),
            "num_attention_heads": ("decoder_attention_heads", "num_attention_heads"),
        },
    ),
    "whisper": Kind(
        defaults=sizes(384, 4, 6, 448, 51_865),
        first_norm=False,
        last_norm=True,
        key_bias=False,
        names={"max_position_embeddings": ("max_target_positions",)},
    ),
}


def build(config: Config) -> Architecture:
    """
    Source: transformers models/<model_type>/modeling_<model_type>.py, the class …ForCausalLM; defaults of its config.

    A TrOCR may look at an encoder of another width, `cross_attention_hidden_size`.
    """
    family = model_type_of(config)
    alone(config, family)
    kind = _KINDS[family]
    own = _own_vocabulary(todays(config.replaced({"model_type": family}), kind.names, kind.defaults))
    block = attention(own, **_biases(own, kind))
    block = replace(block, extras=(*block.extras, *_cross(own, block, kind)))
    around = norms(block.hidden, "self_attn_layer_norm", "final_layer_norm", CROSS_NORM, bias=True)
    layers = stack(block, (None,) * n_layers(own), mlp(own, gated=False, bias=True), around)
    built = decoder(
        own,
        layers,
        tied=True,
        final_norm=norms(block.hidden, "layer_norm", bias=True) if kind.last_norm else (),
        embedding_extras=_beside_embedding(own, kind),
        notes=(NOTE,),
    )
    return built if kind.can_tie else replace(built, tied_head=False)


def alone(config: Config, family: str) -> None:
    """Refuse a config whose class has the encoder too: its memory is more than the decoder's."""
    names = config.texts("architectures", default=())
    if names and not names[0].endswith("ForCausalLM"):
        raise UnsupportedArchitectureError(
            f"{names[0][:60]} has an encoder beside its decoder, which is not modelled; of {family!r} the "
            "decoder alone is",
            hint="to plan the decoder as AutoModelForCausalLM loads it, leave 'architectures' out of the config.json",
        )


def todays(config: Config, names: Mapping[str, tuple[str, ...]], defaults: Mapping[str, int]) -> Config:
    """
    The decoder's figures under today's names; `names` are the keys that replace the usual ones.

    What these configs call num_hidden_layers and num_attention_heads are the encoder's.
    """
    figures: dict[str, Any] = {
        new: config.integer(*old, default=defaults[new]) for new, old in {**NAMES, **names}.items()
    }
    heads = figures["num_attention_heads"]
    own = config.replaced({**figures, "num_key_value_heads": heads, "head_dim": None})
    return own.with_defaults(defaults)


def cross(
    hidden: int, heads: int, *, width: int | None = None, bias: bool = True, key_bias: bool = True
) -> tuple[Weight, ...]:
    """Attention to the encoder's output of `width` (None: as wide as the decoder), which nothing runs through here."""
    name, seen = f"{_UNREAD}encoder_attn.", width or hidden
    return (
        *linear(f"{name}q_proj", hidden, hidden, units=heads, bias=bias),
        *linear(f"{name}k_proj", hidden, seen, units=heads, bias=bias and key_bias),
        *linear(f"{name}v_proj", hidden, seen, units=heads, bias=bias),
        *row_linear(f"{name}o_proj", hidden, hidden, units=heads, bias=bias),
    )


def positions(rows: int, hidden: int) -> Weight:
    """The table of positions, learned or computed: transformers holds both as parameters."""
    return Weight(name="positions", shape=(rows, hidden), role=Role.NORM)


def _own_vocabulary(own: Config) -> Config:
    """Marian's `decoder_vocab_size`, which is the encoder's vocabulary where it is silent."""
    rows, usual = own.optional_integer("decoder_vocab_size"), own.integer("vocab_size")
    if rows is None or rows == usual or own.text("model_type") != "marian":
        return own
    if not own.flag("tie_word_embeddings", default=True):
        raise UnsupportedArchitectureError(
            f"a decoder with an embedding of {rows:,} tokens and a head of its own of {usual:,} is not supported",
            hint="correct vocab_size or decoder_vocab_size in the config.json, which are equal in those published",
        )
    return own.replaced({"vocab_size": rows})


def _biases(own: Config, kind: Kind) -> dict[str, Any]:
    if kind.key_bias:
        bias = own.flag(kind.bias_key, default=False) if kind.bias_key else True
        return {"qkv_bias": bias, "out_bias": bias}
    hidden, heads = hidden_size(own), own.integer("num_attention_heads")
    some = tuple(
        Weight(name=f"{name}_proj.bias", shape=(hidden,), role=Role.BIAS, units=heads) for name in ("q", "v")
    )
    return {"out_bias": True, "extras": some}


def _cross(own: Config, block: FullAttention, kind: Kind) -> tuple[Weight, ...]:
    return cross(
        block.hidden,
        block.n_heads,
        width=own.optional_integer("cross_attention_hidden_size") if kind.optional else None,
        bias=block.out_bias,
        key_bias=kind.key_bias,
    )


def _beside_embedding(own: Config, kind: Kind) -> tuple[Weight, ...]:
    hidden, rows = hidden_size(own), own.integer("max_position_embeddings") + kind.spare
    learned = own.flag("use_learned_position_embeddings", default=True) if kind.optional else True
    normed = own.flag("layernorm_embedding", default=True) if kind.optional else kind.first_norm
    return (
        *((positions(rows, hidden),) if learned else ()),
        *(norms(hidden, "layernorm_embedding", bias=True) if normed else ()),
    )
