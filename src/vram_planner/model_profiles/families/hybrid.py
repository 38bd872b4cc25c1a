"""What families with recurrent layers share: kinds of layers under their old and new names, and common mixers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vram_planner.architecture.model import Layer
from vram_planner.architecture.recurrent import Mamba2
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.common import hidden_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

LINEAR, FULL = "linear_attention", "full_attention"
# Source: transformers configuration_utils.py, _LEGACY_LAYER_TYPE_REMAP.
_OLD_NAMES = {"mamba": LINEAR, "attention": FULL}
_RANK_SHARE = 16
_MOST_FACTOR = 1000


class Parts(NamedTuple):
    """What one layer is made of."""

    mixer: Mixer
    feed_forward: FeedForward
    norms: tuple[Weight, ...]


def kinds(
    config: Config,
    count: int | None,
    known: Sequence[str],
    default: Iterable[str],
    keys: tuple[str, ...] = ("layer_types", "layers_block_type"),
) -> tuple[str, ...]:
    """
    The kind of each layer under the first of `keys` that is there, or the family's `default`; all must be known.

    Old names are read as new ones; `count` None takes as many layers as the list names.
    """
    named = config.texts(*keys, default=tuple(default))
    found = tuple(_OLD_NAMES.get(kind, kind) for kind in named)
    if not found or (count is not None and len(found) != count):
        raise ConfigError(
            f"{config.where}{keys[0]} names {len(found)} layers of {count or 1}",
            hint="give one entry for each of num_hidden_layers",
        )
    strange = next((kind for kind in found if kind not in known), None)
    if strange is not None:
        raise ConfigError(
            f"{config.where}{keys[0]} has {strange[:40]!r}, which this family does not know",
            hint=f"it knows {', '.join(known)}",
        )
    return found


def every(count: int, step: int) -> tuple[str, ...]:
    """Each `step`-th layer attends to all, those between are recurrent."""
    return tuple(LINEAR if (index + 1) % step else FULL for index in range(count))


def assemble(rows: Iterable[Parts]) -> tuple[Layer, ...]:
    """One layer for each row; rows of the same objects share one layer, so that a deep model stays small."""
    made: dict[tuple[int, int, int], Layer] = {}
    layers = []
    for row in rows:
        key = (id(row.mixer), id(row.feed_forward), id(row.norms))
        if key not in made:
            made[key] = Layer(mixer=row.mixer, feed_forward=row.feed_forward, norms=row.norms)
        layers.append(made[key])
    return tuple(layers)


def factor(config: Config, key: str, default: float) -> float:
    """A factor on a width: above 0, and no more than a thousand."""
    value = config.number(key, default=default)
    if not 0 < value <= _MOST_FACTOR:
        raise ConfigError(
            f"{config.where}{key} is {value:g}, which is not between 0 and {_MOST_FACTOR:,}",
            hint=f"correct {key!r} in the config.json",
        )
    return value


def step_rank(config: Config, *keys: str) -> int:
    """Mamba's rank of the time step: a number, or "auto", a sixteenth of the hidden size rounded up."""
    if config.raw(*keys) in (None, "auto"):
        return -(-hidden_size(config) // _RANK_SHARE)
    return config.integer(*keys)


def mamba_2(
    config: Config, *, inner: int | None = None, out_bias: bool | None = None, gated_norm: bool = True
) -> Mamba2:
    """
    Mamba-2 under the keys of Bamba, Granite 4 and Falcon-H1, whose defaults must be in the config already.

    Source: transformers models/bamba/configuration_bamba.py; mamba_d_head "auto" is the channels over the heads.
    """
    hidden = hidden_size(config)
    inner = inner or config.integer("mamba_expand", most=10**3) * hidden
    heads = config.integer("mamba_n_heads", most=10**5)
    bias = config.flag("mamba_proj_bias")
    auto = config.raw("mamba_d_head") in (None, "auto")
    return checked(
        config,
        Mamba2(
            hidden=hidden,
            inner=inner,
            heads=heads,
            head_dim=max(1, inner // heads) if auto else config.integer("mamba_d_head", most=10**5),
            groups=config.integer("mamba_n_groups", most=10**5),
            state_size=config.integer("mamba_d_state", most=10**5),
            kernel=config.integer("mamba_d_conv", most=10**3),
            conv_bias=config.flag("mamba_conv_bias"),
            bias=bias,
            out_bias=bias if out_bias is None else out_bias,
            gated_norm=gated_norm,
        ),
    )


def checked(config: Config, mixer: Mamba2) -> Mamba2:
    """The mixer, if its heads fill its channels, and its groups share out its heads."""
    if mixer.heads * mixer.head_dim != mixer.inner:
        raise ConfigError(
            f"{config.where or 'the config'} has {mixer.heads} Mamba heads of {mixer.head_dim}, which do not fill "
            f"{mixer.inner} channels",
            hint="heads × their width must be expand × hidden_size",
        )
    if mixer.heads % mixer.groups:
        raise ConfigError(
            f"{config.where or 'the config'} has {mixer.heads} Mamba heads in {mixer.groups} groups",
            hint="each group must serve the same number of heads",
        )
    return mixer
