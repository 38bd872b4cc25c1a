"""What a card has: the catalogue, a card by any of its names, and the cards of this machine."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vram_planner.hardware_profiles.driver import driver_present
    from vram_planner.hardware_profiles.find import (
        GpuChoice,
        choices_on,
        find_gpu,
        find_gpus,
        gpu_by_nvml_name,
    )
    from vram_planner.hardware_profiles.gpu import Gpu, Price
    from vram_planner.hardware_profiles.machine import DetectedGpu, GpuProcess, Machine, MigSlice
    from vram_planner.hardware_profiles.nvml import detect
    from vram_planner.hardware_profiles.rows import all_gpus
    from vram_planner.hardware_profiles.schema import gpus_from_file

_HOME = {
    "DetectedGpu": "machine",
    "Gpu": "gpu",
    "GpuChoice": "find",
    "GpuProcess": "machine",
    "Machine": "machine",
    "MigSlice": "machine",
    "Price": "gpu",
    "all_gpus": "rows",
    "choices_on": "find",
    "detect": "nvml",
    "driver_present": "driver",
    "find_gpu": "find",
    "find_gpus": "find",
    "gpu_by_nvml_name": "find",
    "gpus_from_file": "schema",
}

__all__ = [
    "DetectedGpu",
    "Gpu",
    "GpuChoice",
    "GpuProcess",
    "Machine",
    "MigSlice",
    "Price",
    "all_gpus",
    "choices_on",
    "detect",
    "driver_present",
    "find_gpu",
    "find_gpus",
    "gpu_by_nvml_name",
    "gpus_from_file",
]


def __getattr__(name: str) -> Any:
    """Load the module of a public name when it is first asked for: a plan without NVML reads no nvml.py."""
    if name not in _HOME:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
