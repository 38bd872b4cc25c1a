"""A planned figure beside a measured one, and whether the plan held."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """
    One part: what the plan said and what was measured.

    `share_of` is what the difference is judged against: the part itself for what a plan knows to the byte
    (weights, cache), the whole for what is small and goes up and down (activations, runtime). `judged` is
    False for rows that are shown only.
    """

    name: str
    planned_bytes: int
    measured_bytes: int
    how: str
    share_of: int | None = None
    judged: bool = True

    @property
    def error(self) -> float:
        """Planned against measured, relative to what it is judged against; positive: the plan was too high."""
        base = self.measured_bytes if self.share_of is None else self.share_of
        difference = self.planned_bytes - self.measured_bytes
        if base:
            return difference / base
        return 0.0 if not difference else float("inf")

    def holds(self, tolerance: float) -> bool:
        """Whether the plan held here."""
        return not self.judged or abs(self.error) <= tolerance


def plan_held(rows: Iterable[Checked], tolerance: float) -> bool:
    """Whether every judged row is within the tolerance."""
    return all(row.holds(tolerance) for row in rows)


def finite(value: float) -> float | None:
    """A figure as JSON has it: None for an infinite one, as the error against a measured 0 is."""
    return value if math.isfinite(value) else None


def checked_dict(row: Checked) -> dict[str, object]:
    """One row as plain data."""
    return {
        "name": row.name,
        "planned_bytes": row.planned_bytes,
        "measured_bytes": row.measured_bytes,
        "error": finite(row.error),
        "judged": row.judged,
        "how": row.how,
    }
