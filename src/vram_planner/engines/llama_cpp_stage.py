"""What one GPU runs of a model: the layers, and where what they need lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.architecture.model import Architecture, Layer
    from vram_planner.architecture.recurrent import Mamba, Mamba2

_EVERY_FOURTH_WITHOUT = ("smollm3",)


def turns(architecture: Architecture, index: int) -> bool:
    """Whether that layer knows positions: every fourth of SmolLM3 does not. Source: src/models/smollm3.cpp, use_rope."""
    return not architecture.model_type.startswith(_EVERY_FOURTH_WITHOUT) or (index + 1) % 4 != 0


@dataclass(frozen=True, slots=True)
class Step:
    """
    One layer that a GPU runs: the tensors that it must copy from the host, where its cache is, and who attends.

    `turns`: queries and keys are turned by their positions. `cuts_off`: only the largest gates of its MLP pass.
    `experts_away`: its experts lie on the host, and the first GPU, which is not its own, works with them; `stream_away`:
    and adds what they find to the stream.
    `attends_on_host`: between its keys and its output's projection stands the next layer's state, gathered by the host.
    """

    layer: Layer
    copies: Mapping[str, int]
    cache_on_host: bool
    attends_on_host: bool = False
    turns: bool = True
    cuts_off: bool = False
    experts_away: bool = False
    stream_away: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """
    The part of a model that one GPU runs: its layers, and whether it begins or ends the model.

    `guests` are layers of other GPUs whose experts the first one works with. `ends`: its last layer is the model's, which
    keeps the asked tokens alone; the output may be the next GPU's.
    """

    steps: tuple[Step, ...]
    first: bool
    last: bool
    output_copies: Mapping[str, int]
    hands_over: Step | None = None
    takes_over: Mamba | Mamba2 | None = None
    guests: tuple[Step, ...] = ()
    ends: bool = False
