"""
Say how much GPU memory a language model needs to be served, how many requests then run at once, on what.

    import vram_planner as vp
    plan = vp.plan("7b", ctx=8192, concurrency=16)
    plan.total_bytes, plan.part("kv_cache").n_bytes, plan.to_dict()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vram_planner._version import __version__

if TYPE_CHECKING:
    from vram_planner import validate
    from vram_planner.api import compare, load_architecture, plan, simulate, size, sweep
    from vram_planner.architecture.model import Architecture
    from vram_planner.basis import Basis, Part
    from vram_planner.errors import PlannerError
    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.planning.request import PlanRequest

_HOME = {
    "Architecture": "architecture.model",
    "Basis": "basis",
    "MemoryPlan": "planning.plan",
    "Part": "basis",
    "PlanRequest": "planning.request",
    "PlannerError": "errors",
    "compare": "api",
    "load_architecture": "api",
    "plan": "api",
    "simulate": "api",
    "size": "api",
    "sweep": "api",
}

__all__ = [
    "Architecture",
    "Basis",
    "MemoryPlan",
    "Part",
    "PlanRequest",
    "PlannerError",
    "__version__",
    "compare",
    "load_architecture",
    "plan",
    "simulate",
    "size",
    "sweep",
    "validate",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for: importing the package costs next to nothing."""
    if name == "validate":
        return import_module(f"{__name__}.validate")
    if name not in _HOME:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
