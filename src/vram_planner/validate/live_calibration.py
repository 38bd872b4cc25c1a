"""What a live run teaches later plans, and keeping it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vram_planner.errors import CalibrationError
from vram_planner.planning.calibration import Calibration, save_calibration
from vram_planner.validate.device_set import GpuSet

if TYPE_CHECKING:
    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.validate.devices import Place
    from vram_planner.validate.live_result import Sizes


def calibrate(
    place: Place, plan: MemoryPlan, sizes: Sizes, planned_activations: int, version: str
) -> Calibration | None:
    """
    The context, the allocator's waste, and the activations; over several GPUs those of the fullest card.

    None where nothing moved, and where the GPUs are not alike: a plan has cards of one kind.
    """
    moving = sizes.peak - sizes.weights
    if moving <= 0 or not planned_activations or (isinstance(place, GpuSet) and not place.alike):
        return None
    return Calibration(
        device=place.cards[0].name if place.cards else place.name,
        engine="transformers",
        engine_version=version,
        profile=str(plan.request.get("engine_version") or ""),
        runtime_bytes=(sizes.outside or 0) + sizes.work_space,
        reserved_over_live=max(1.0, (sizes.reserved_peak - sizes.weights) / moving),
        factors={"activations": max(0, moving - sizes.cache) / planned_activations},
        model=plan.model.name,
        gpus=len(place.cards) or 1,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        driver=place.facts.get("driver"),
    )


def saved(entry: Calibration | None, *, save: bool) -> tuple[str, ...]:
    """What was measured is told even where it cannot be kept."""
    if entry is None or not save:
        return ()
    try:
        save_calibration(entry)
    except CalibrationError as error:
        return (f"{error}; {error.hint}",)
    return ()
