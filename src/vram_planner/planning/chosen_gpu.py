"""The card of a plan: as named, from the environment, or the machine's own."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.errors import NoGpuError, RequestError
from vram_planner.hardware_profiles import GpuChoice, driver_present, find_gpu

if TYPE_CHECKING:
    from vram_planner.planning.request import PlanRequest

_GPU_VARIABLE = "VRAM_PLANNER_GPU"
_NO_GPU = "none"


def choose_gpu(request: PlanRequest) -> GpuChoice | None:
    """As asked, else of the environment, else what the driver shows; None where a plan is to name no card."""
    wanted = request.gpu or os.environ.get(_GPU_VARIABLE)
    if (wanted or "").strip().lower() == _NO_GPU or (wanted is None and not driver_present()):
        return None
    if wanted is None or wanted.strip().lower() == "auto":
        return _detected(request, asked=wanted is not None)
    choice = find_gpu(wanted)
    if request.gpu_count is None:
        return choice
    if choice.count not in (1, request.gpu_count):
        raise RequestError(
            f"--gpu says {choice.count} cards and --gpu-count {request.gpu_count}", hint="say it once"
        )
    return replace(choice, count=request.gpu_count)


def _detected(request: PlanRequest, *, asked: bool) -> GpuChoice | None:
    from vram_planner.hardware_profiles import choices_on, detect  # noqa: PLC0415  only where there is a driver

    try:
        choices = choices_on(detect())
    except NoGpuError:
        if not asked:
            return None
        raise
    if not choices:
        if not asked:
            return None
        raise NoGpuError("no usable GPU was found on this machine", hint="name the card instead: --gpu h100")
    best = max(choices, key=lambda choice: choice.gpu.total_bytes * choice.count)
    return GpuChoice(best.gpu, request.gpu_count or best.count, "auto")


def detected_warnings(choice: GpuChoice | None) -> tuple[str, ...]:
    """That a card was found and not named."""
    if choice is None or choice.asked != "auto":
        return ()
    return (f"--gpu auto: planned for {choice.count} × {choice.gpu.name}, as if nothing else used the card",)
