"""The device that is measured: what NVML says of it before, during and after, or the machine itself."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vram_planner.errors import NoGpuError, RequestError
from vram_planner.hardware_profiles import detect
from vram_planner.validate.measure import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.hardware_profiles import DetectedGpu, Machine

_INSTEAD = "use --device cpu with a small model, or `vram-plan validate shadow`, which needs no GPU"
_SETTLE_S = 10.0
_POLL_S = 0.2
# Freeing MALLOC's large blocks at once makes the process's own figures follow the tensors.
_CPU_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """
    What was seen from outside; None where it is not told.

    Bytes of the process, bytes used on the device, and what the device has grown by since before the run.
    """

    process_bytes: int | None
    device_bytes: int | None
    grown_bytes: int | None = None


class Place:
    """What a GPU and the CPU have in common; this one is the CPU."""

    name = "cpu"
    lock_name = "cpu"
    plan_gpu: str | None = "none"

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {"device": "cpu"}
        self.free_bytes: int | None = None
        self._pid: int | None = None

    def environment(self) -> dict[str, str]:
        """The child's environment."""
        return {**os.environ, **_CPU_ENVIRONMENT}

    def follow(self, pid: int) -> None:
        """The process that is measured from here on."""
        self._pid = pid

    def read(self) -> Seen:
        """What can be seen of it from outside."""
        return Seen(None if self._pid is None else resident_bytes(self._pid), None)

    def left_behind(self) -> int | None:
        """Bytes still held on the device when the process is gone; None where that cannot be told."""
        return None


class GpuPlace(Place):
    """One GPU, or its first MIG slice."""

    def __init__(self, machine: Machine, gpu: DetectedGpu, ask: Callable[[], Machine]) -> None:
        super().__init__()
        self._index, self._ask = gpu.index, ask
        piece = gpu.mig_slices[0] if gpu.mig_slices else None
        self._slice = None if piece is None else piece.index
        self.name = gpu.name if piece is None else piece.name
        self.lock_name = (piece.uuid if piece else gpu.uuid) or f"gpu-{gpu.index}"
        self._visible = (piece.uuid if piece else gpu.uuid) or str(gpu.index)
        total = piece.total_bytes if piece else gpu.total_bytes
        self.free_bytes = piece.free_bytes if piece else gpu.free_bytes
        # NVML counts in what the driver keeps for itself; no process gets that.
        usable = total - (gpu.reserved_bytes or 0) if total and not piece else total
        self.plan_gpu = f"custom:{usable}B" if usable else "none"
        self._before = piece.used_bytes if piece else gpu.used_bytes
        self.facts = {
            "device": self.name,
            "total_bytes": total,
            "free_bytes": self.free_bytes,
            "driver": machine.driver_version,
            "compute_capability": gpu.compute_capability,
            "mig": bool(piece),
            "other_processes": None if gpu.processes is None else len(gpu.processes),
        }

    def environment(self) -> dict[str, str]:
        """Only this device is visible: by its UUID, for NVML and CUDA number differently."""
        return {**os.environ, "CUDA_VISIBLE_DEVICES": self._visible}

    def read(self) -> Seen:
        """NVML's figures of the process and of the device."""
        gpu = self._gpu()
        if gpu is None:
            return Seen(None, None)
        own = [process.used_bytes for process in gpu.processes or () if process.pid == self._pid]
        used = self._used(gpu)
        grown = None if used is None or self._before is None else max(0, used - self._before)
        return Seen(own[0] if own else None, used, grown)

    def left_behind(self) -> int | None:
        """Wait until the device is as it was; else what is still held."""
        deadline = time.monotonic() + _SETTLE_S
        while True:
            gpu = self._gpu()
            used = None if gpu is None else self._used(gpu)
            if gpu is None or used is None or self._before is None:
                return None
            gone = all(process.pid != self._pid for process in gpu.processes or ())
            if (gone and used <= self._before) or time.monotonic() > deadline:
                return max(0, used - self._before)
            time.sleep(_POLL_S)

    def _gpu(self) -> DetectedGpu | None:
        try:
            machine = self._ask()
        except NoGpuError:
            return None
        return next((gpu for gpu in machine.usable_gpus if gpu.index == self._index), None)

    def _used(self, gpu: DetectedGpu) -> int | None:
        if self._slice is None:
            return gpu.used_bytes
        return next((piece.used_bytes for piece in gpu.mig_slices if piece.index == self._slice), None)


def place_for(device: str, index: int, ask: Callable[[], Machine] = detect) -> Place:
    """The CPU, or the GPU of NVML's number `index`; NoGpuError (status 4) where there is none."""
    if device == "cpu":
        return Place()
    try:
        machine = ask()
    except NoGpuError as error:
        raise NoGpuError(str(error), hint=_INSTEAD) from error
    found = next((gpu for gpu in machine.gpus if gpu.index == index), None)
    if found is None:
        numbers = ", ".join(str(gpu.index) for gpu in machine.gpus)
        raise RequestError(f"there is no GPU {index}", hint=f"--gpu is one of {numbers}")
    if not found.usable:
        raise NoGpuError(f"GPU {index}: {found.problem}", hint=_INSTEAD)
    return GpuPlace(machine, found, ask)
