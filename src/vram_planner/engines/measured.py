"""What was measured on a machine, in place of what an engine's module derives or assumes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vram_planner.basis import Basis, Part

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOVING = frozenset({"kv_cache", "recurrent_state", "activations"})


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Measured:
    """
    One machine's own figures for one engine: `where` names device, version and date.

    `runtime_bytes` stands for the whole part `runtime`; `reserved_over_live` is what an allocator holds over
    what is alive in it (1.0: nothing wasted); `factors` are measured over planned bytes of a part, by its name.
    """

    where: str
    runtime_bytes: int | None = None
    reserved_over_live: float = 1.0
    factors: Mapping[str, float] = field(default_factory=dict)

    def scaled(self, name: str, n_bytes: int) -> int:
        """The bytes of a part of that name, as this machine has them."""
        return round(n_bytes * self.factors.get(name, 1.0))

    def runtime(self, moving_bytes: int, planned_bytes: int) -> int:
        """The part `runtime`, beside `moving_bytes` of cache, states and activations."""
        if self.runtime_bytes is None:
            return planned_bytes
        return self.runtime_bytes + round(moving_bytes * (self.reserved_over_live - 1))


def with_measured(parts: tuple[Part, ...], measured: Measured | None) -> tuple[Part, ...]:
    """The same parts, those that were measured with the machine's own figure and no band."""
    if measured is None:
        return parts
    found = tuple(
        _measured(part, measured.scaled(part.name, part.n_bytes), measured, f"planned × {factor:.3f}")
        if (factor := measured.factors.get(part.name)) is not None
        else part
        for part in parts
    )
    if measured.runtime_bytes is None:
        return found
    moving = sum(part.n_bytes for part in found if part.name in _MOVING)
    held = f"{measured.runtime_bytes:,} B before any tensor"
    waste = measured.reserved_over_live - 1
    told = f"{held}, {waste:.1%} of cache and activations reserved and not used" if waste else held
    return tuple(
        _measured(part, measured.runtime(moving, part.n_bytes), measured, told)
        if part.name == "runtime"
        else part
        for part in found
    )


def _measured(part: Part, n_bytes: int, measured: Measured, detail: str) -> Part:
    """`outside_bytes` stays what the engine's budget took it for: a measured part below it gives the rest back."""
    return replace(
        part,
        n_bytes=n_bytes,
        low_bytes=n_bytes,
        high_bytes=n_bytes,
        basis=Basis.MEASURED,
        source=measured.where,
        detail=f"{detail}: {part.detail}",
    )
