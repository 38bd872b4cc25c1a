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
    from collections.abc import Callable, Sequence

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

    Bytes of the process, bytes used on the device, and what the device has grown by since before the run;
    over several GPUs the sums, and each by itself in `cards`.
    """

    process_bytes: int | None
    device_bytes: int | None
    grown_bytes: int | None = None
    cards: tuple[Seen, ...] = ()


class Place:
    """What a GPU and the CPU have in common; this one is the CPU."""

    name = "cpu"
    lock_names: tuple[str, ...] = ("cpu",)
    plan_gpu: str | None = "none"
    cards: tuple[GpuPlace, ...] = ()

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
        self.index, self._ask = gpu.index, ask
        self.vanished = False
        piece = gpu.mig_slices[0] if gpu.mig_slices else None
        self._slice = None if piece is None else piece.index
        self.name = gpu.name if piece is None else piece.name
        self.lock_names = ((piece.uuid if piece else gpu.uuid) or f"gpu-{gpu.index}",)
        self.visible = (piece.uuid if piece else gpu.uuid) or str(gpu.index)
        self.total_bytes = total = piece.total_bytes if piece else gpu.total_bytes
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
        return {**os.environ, "CUDA_VISIBLE_DEVICES": self.visible}

    def read(self) -> Seen:
        """NVML's figures of the process and of the device."""
        return self.seen_in(asked(self._ask))

    def seen_in(self, machine: Machine | None) -> Seen:
        """The same out of one answer of NVML; nothing where the GPU is not in it."""
        gpu = self._gpu(machine)
        if gpu is None:
            return Seen(None, None)
        own = [process.used_bytes for process in gpu.processes or () if process.pid == self._pid]
        used = self._used(gpu)
        grown = None if used is None or self._before is None else max(0, used - self._before)
        return Seen(own[0] if own else None, used, grown)

    def left_behind(self) -> int | None:
        """Wait until the device is as it was; else what is still held."""
        return left_on((self,), self._ask)[0]

    def left_in(self, machine: Machine | None) -> tuple[int | None, bool]:
        """Bytes still held by one answer of NVML, and whether there is nothing to wait for."""
        gpu = self._gpu(machine)
        used = None if gpu is None else self._used(gpu)
        if gpu is None or used is None or self._before is None:
            return None, True
        gone = all(process.pid != self._pid for process in gpu.processes or ())
        return max(0, used - self._before), gone and used <= self._before

    def _gpu(self, machine: Machine | None) -> DetectedGpu | None:
        found = None if machine is None else machine.usable_gpus
        gpu = next((gpu for gpu in found or () if gpu.index == self.index), None)
        self.vanished = gpu is None
        return gpu

    def _used(self, gpu: DetectedGpu) -> int | None:
        if self._slice is None:
            return gpu.used_bytes
        return next((piece.used_bytes for piece in gpu.mig_slices if piece.index == self._slice), None)


def asked(ask: Callable[[], Machine]) -> Machine | None:
    """NVML's answer; None where it has none any more."""
    try:
        return ask()
    except NoGpuError:
        return None


def left_on(cards: Sequence[GpuPlace], ask: Callable[[], Machine]) -> tuple[int | None, ...]:
    """Wait until every one is as it was, or for ten seconds; bytes still held on each."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        machine = asked(ask)
        found = [card.left_in(machine) for card in cards]
        if all(done for _, done in found) or time.monotonic() > deadline:
            return tuple(n_bytes for n_bytes, _ in found)
        time.sleep(_POLL_S)


def place_for(device: str, index: int, ask: Callable[[], Machine] = detect) -> Place:
    """The CPU, or the GPU of NVML's number `index`; NoGpuError (status 4) where there is none."""
    if device == "cpu":
        return Place()
    machine = seen_machine(ask)
    return GpuPlace(machine, one_gpu(machine, index), ask)


def seen_machine(ask: Callable[[], Machine]) -> Machine:
    """NVML's answer; NoGpuError (status 4), with what to do instead, where there is none."""
    try:
        return ask()
    except NoGpuError as error:
        raise NoGpuError(str(error), hint=_INSTEAD) from error


def one_gpu(machine: Machine, index: int) -> DetectedGpu:
    """The GPU of that number; refused where there is none or it does not answer."""
    found = next((gpu for gpu in machine.gpus if gpu.index == index), None)
    if found is None:
        numbers = ", ".join(str(gpu.index) for gpu in machine.gpus)
        raise RequestError(f"there is no GPU {index}", hint=f"--gpu is one of {numbers}, several, or all")
    if not found.usable:
        raise NoGpuError(f"GPU {index}: {found.problem}", hint=_INSTEAD)
    return found
