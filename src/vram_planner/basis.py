"""How a figure is known. A guess never looks like a fact."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Basis(StrEnum):
    """The rung of the ladder of evidence that a figure stands on."""

    EXACT = "exact"  # read from the checkpoint
    FORMULA = "formula"  # derived, source cited
    MEASURED = "measured"  # seen on a machine or in a log that we name
    ASSUMED = "assumed"  # a guess: change it


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """
    One named share of the memory of one GPU.

    `low_bytes` and `high_bytes` bound it; they equal `n_bytes` where nothing is uncertain.
    `detail` is the formula with its numbers filled in, in short up to the first colon, which is what a table
    shows; `source` says where the rule comes from.
    `in_budget` is False for what an engine spends beyond the share it gave itself
    (vLLM before 0.20 captures CUDA graphs after it has sized the KV cache); `outside_bytes`
    says the same of some of the bytes (the CUDA context is gone before vLLM's first reading).
    """

    name: str
    n_bytes: int
    basis: Basis
    source: str
    detail: str = ""
    low_bytes: int | None = None
    high_bytes: int | None = None
    in_budget: bool = True
    outside_bytes: int = 0

    @property
    def budgeted_bytes(self) -> int:
        """What of it counts against the engine's own share of the card."""
        return self.n_bytes - self.outside_bytes if self.in_budget else 0

    @property
    def low(self) -> int:
        """The least that it may be, in bytes."""
        return self.n_bytes if self.low_bytes is None else self.low_bytes

    @property
    def high(self) -> int:
        """The most that it may be, in bytes."""
        return self.n_bytes if self.high_bytes is None else self.high_bytes
