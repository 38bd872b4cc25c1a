"""One stored tensor: its shape, what it is for, and into how many pieces tensor parallelism may deal it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Role(StrEnum):
    """What a tensor is for. Quantisation formats and engines decide by this, never by a model's name."""

    EMBEDDING = "embedding"
    HEAD = "head"
    LINEAR = "linear"
    EXPERT = "expert"
    ROUTER = "router"
    JOIN = "join"  # joins two streams into one (a draft layer's eh_proj); never quantised
    NORM = "norm"
    BIAS = "bias"
    TOWER = "tower"  # vision and audio encoders with their projectors
    BUFFER = "buffer"  # stored with the weights, yet no parameter (a router's correction bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """
    One tensor, or `count` tensors of one shape (the experts of a layer).

    `shape` is in torch's order: (out, in) for a linear layer; a stack of experts is
    (n_experts, out, in). `units` is the number of equal pieces that tensor parallelism
    can deal out: attention heads, KV heads, rows of the MLP; 1 means that every rank
    holds the whole. `alike` names tensors that share their storage (a tied head).
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    units: int = 1

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)

    @property
    def rows(self) -> int:
        """Output features (of one expert); 1 for a vector."""
        return self.shape[-2] if len(self.shape) > 1 else 1

    @property
    def columns(self) -> int:
        """Input features: the dimension along which blocks of a quantised format run."""
        return self.shape[-1]

    @property
    def stack(self) -> int:
        """How many matrices lie in the tensor: the experts of a layer, else 1."""
        return prod(self.shape[:-2])

    def share(self, tp: int) -> tuple[int, int]:
        """
        The part of this tensor on the fullest of `tp` ranks, as (pieces, of all pieces).

        With fewer pieces than ranks each rank holds one, so KV heads are replicated:
        8 heads on 16 ranks give (1, 8). Source: vLLM QKVParallelLinear, num_kv_head_replicas.
        """
        return max(1, -(-self.units // tp)), self.units


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedWeight(Weight):
    """
    A tensor whose rows tensor parallelism deals out differently.

    `parts` are (rows, units) from top to bottom: Mamba-2's in_proj has rows of heads and rows of groups.
    """

    parts: tuple[tuple[int, int], ...]

    def share(self, tp: int) -> tuple[int, int]:
        """Rows on the fullest rank, of all rows."""
        on_rank = sum(rows // units * max(1, -(-units // tp)) for rows, units in self.parts)
        return on_rank, sum(rows for rows, _ in self.parts)


def count_elements(weights: Iterable[Weight]) -> int:
    """Numbers held by all of these."""
    return sum(weight.elements for weight in weights)


def count_parameters(weights: Iterable[Weight]) -> int:
    """Parameters among these: all but the buffers, as `module.parameters()` counts."""
    return sum(weight.elements for weight in weights if weight.role is not Role.BUFFER)


def linear(
    name: str, out: int, into: int, *, units: int = 1, bias: bool = False, role: Role = Role.LINEAR
) -> tuple[Weight, ...]:
    """A linear layer's weight, and its bias where it has one (dealt out alike)."""
    weight = Weight(name=name, shape=(out, into), role=role, units=units)
    if not bias:
        return (weight,)
    return (weight, Weight(name=f"{name}.bias", shape=(out,), role=Role.BIAS, units=units))


def row_linear(name: str, out: int, into: int, *, units: int = 1, bias: bool = False) -> tuple[Weight, ...]:
    """A linear layer cut along its inputs; its bias is added once, so every rank holds it."""
    weight = Weight(name=name, shape=(out, into), role=Role.LINEAR, units=units)
    if not bias:
        return (weight,)
    return (weight, Weight(name=f"{name}.bias", shape=(out,), role=Role.BIAS))


def norm(name: str, width: int, *, bias: bool = False) -> tuple[Weight, ...]:
    """A normalisation's scale, and its shift where it has one."""
    scale = Weight(name=name, shape=(width,), role=Role.NORM)
    return (scale, Weight(name=f"{name}.bias", shape=(width,), role=Role.BIAS)) if bias else (scale,)
