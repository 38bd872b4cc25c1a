"""Why something could not be measured here: status 4, with what to do instead."""

from __future__ import annotations

from vram_planner.errors import PlannerError


class CannotMeasureError(PlannerError):
    """This machine, or what is installed on it, cannot answer; `hint` says what can."""

    exit_status = 4


class BusyError(CannotMeasureError):
    """Another validation runs on the same device: two at once would measure each other."""


class ChildError(CannotMeasureError):
    """The measuring process died, hung or gave up before there was anything to compare."""


class WeightsError(PlannerError):
    """Weights that cannot be loaded: a damaged file, a wrong directory."""
