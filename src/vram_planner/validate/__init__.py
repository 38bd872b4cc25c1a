"""Prove it on the machine: torch and its kin are imported here alone, inside functions."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vram_planner.validate.fleet_run import fleet
    from vram_planner.validate.live_gpus import live_each
    from vram_planner.validate.live_run import live
    from vram_planner.validate.server_run import server
    from vram_planner.validate.shadow_run import shadow

_HOME = {
    "fleet": "fleet_run",
    "live": "live_run",
    "live_each": "live_gpus",
    "server": "server_run",
    "shadow": "shadow_run",
}

__all__ = ["fleet", "live", "live_each", "server", "shadow"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for."""
    if name not in _HOME:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
