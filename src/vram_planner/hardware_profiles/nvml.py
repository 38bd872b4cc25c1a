"""
The one module that touches NVML, through pynvml (the package nvidia-ml-py).

It opens NVML, asks, closes it, and gives back plain frozen values. What a card does not support, or does not
let us see, is None; a card that is lost is reported as lost and the others are read.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vram_planner.errors import NoGpuError
from vram_planner.hardware_profiles.machine import DetectedGpu, GpuProcess, Machine, MigSlice
from vram_planner.units import format_gib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_INSTEAD = "name the card instead: --gpu 'RTX 4090', or --gpu custom:24GiB"
_LIBRARY = "libnvidia-ml.so.1"


def detect(nvml: Any | None = None) -> Machine:
    """
    Ask NVML for this machine's GPUs.

    `nvml` is pynvml unless a test passes something else. Raises NoGpuError where there is no usable GPU,
    saying why and what to do.
    """
    nvml = _load() if nvml is None else nvml
    with _session(nvml):
        try:
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            raise NoGpuError(f"NVML does not count its GPUs: {error}", hint=_INSTEAD) from error
        machine = Machine(
            driver_version=_ask(nvml, nvml.nvmlSystemGetDriverVersion),
            cuda_driver_version=_cuda_version(nvml),
            gpus=tuple(_read_gpu(nvml, index) for index in range(count)),
        )
    if not machine.gpus:
        raise NoGpuError("the NVIDIA driver runs, but there is no GPU (0 found)", hint=_INSTEAD)
    if not machine.usable_gpus:
        problems = "; ".join(f"GPU {gpu.index}: {gpu.problem}" for gpu in machine.gpus)
        raise NoGpuError(f"no GPU answers: {problems}", hint=_INSTEAD)
    return machine


def _load() -> Any:
    try:
        return import_module("pynvml")
    except ImportError as error:
        raise NoGpuError(
            "the Python package nvidia-ml-py is not installed",
            hint=f"pip install nvidia-ml-py (it imports as pynvml); or {_INSTEAD}",
        ) from error


@contextmanager
def _session(nvml: Any) -> Iterator[None]:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        message, cure = _why_not(nvml, error)
        raise NoGpuError(message, hint=f"{cure}; or {_INSTEAD}" if cure else _INSTEAD) from error
    try:
        yield
    finally:
        _ask(nvml, nvml.nvmlShutdown)


def _why_not(nvml: Any, error: Any) -> tuple[str, str]:
    """Why NVML did not start, and its cure where there is one."""
    reasons = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: (f"no NVIDIA driver here ({_LIBRARY} is not found)", ""),
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: (
            "the NVIDIA driver is installed but not loaded",
            "load it (modprobe nvidia) or restart the machine",
        ),
        nvml.NVML_ERROR_NO_PERMISSION: (
            "no permission to ask the NVIDIA driver",
            "let this user read /dev/nvidia*",
        ),
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
            "the NVIDIA driver and its library are of different versions",
            "restart the machine, as after every driver update; in a container, mount the host's library",
        ),
    }
    return reasons.get(error.value, (f"NVML did not start: {error}", ""))


def _read_gpu(nvml: Any, index: int) -> DetectedGpu:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name = nvml.nvmlDeviceGetName(handle)
        uuid = _ask(nvml, nvml.nvmlDeviceGetUUID, handle)
        memory = _memory(nvml, handle)
    except nvml.NVMLError as error:
        return _unusable(nvml, index, error)
    assumed_bytes, note = (None, None) if memory else _ram_instead()
    mig_enabled = _mig_enabled(nvml, handle)
    slices = tuple(_mig_slices(nvml, handle)) if mig_enabled else ()
    return DetectedGpu(
        index=index,
        uuid=uuid,
        name=name,
        total_bytes=memory and int(memory.total),
        reserved_bytes=getattr(memory, "reserved", None),
        used_bytes=memory and int(memory.used),
        free_bytes=memory and int(memory.free),
        assumed_total_bytes=assumed_bytes,
        memory_note=note,
        compute_capability=_compute_capability(nvml, handle),
        processes=_processes(nvml, handle),
        mig_enabled=mig_enabled,
        mig_slices=slices,
        problem="in MIG mode, but without a slice; make one: nvidia-smi mig -cgi 9 -C"
        if mig_enabled and not slices
        else None,
    )


def _unusable(nvml: Any, index: int, error: Any) -> DetectedGpu:
    lost = error.value == nvml.NVML_ERROR_GPU_IS_LOST
    problem = {
        nvml.NVML_ERROR_GPU_IS_LOST: "lost: it fell off the bus or does not answer; restart the machine",
        nvml.NVML_ERROR_NO_PERMISSION: "no permission to read it",
    }.get(error.value, str(error))
    return DetectedGpu(index=index, lost=lost, problem=problem)


def _memory(nvml: Any, handle: Any) -> Any | None:
    """
    The memory reading, or None where the card does not support one.

    Version 2 counts what the driver keeps for itself apart; version 1 counts it as used.
    """
    try:
        return nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except nvml.NVMLError as error:
        if error.value in (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_NO_PERMISSION):
            raise
    try:
        return nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError as error:
        if error.value == nvml.NVML_ERROR_NOT_SUPPORTED:
            return None
        raise


def _ram_instead() -> tuple[int | None, str]:
    reason = "NVML reads no memory on this board (unified memory)"
    try:
        ram_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # no sysconf on Windows
        return None, reason
    return (
        ram_bytes,
        f"{reason}; assumed: the machine's RAM, {format_gib(ram_bytes)} GiB, shared with everything else",
    )


def _processes(nvml: Any, handle: Any) -> tuple[GpuProcess, ...] | None:
    """The other programs on the card; a desktop (graphics) and clients of MPS hold memory as well."""
    seen: dict[int, int | None] = {}
    answered = False
    for kind in ("Compute", "Graphics", "MPSCompute"):
        found = _running(nvml, handle, kind)
        answered = answered or found is not None
        for process in found or ():
            # One program is in two lists when it computes and draws; each list has its whole memory.
            seen[process.pid] = max(seen.get(process.pid), process.usedGpuMemory, key=lambda used: used or 0)
    if not answered:
        return None
    return tuple(
        GpuProcess(pid=pid, used_bytes=used) for pid, used in sorted(seen.items()) if pid != os.getpid()
    )


def _running(nvml: Any, handle: Any, kind: str) -> Any | None:
    """One list of processes; drivers before 510 have only version 2 of the question."""
    newest = getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses_v3")
    found = _ask(nvml, newest, handle)
    if found is not None:
        return found
    return _ask(nvml, getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses_v2"), handle)


def _mig_enabled(nvml: Any, handle: Any) -> bool | None:
    modes = _ask(nvml, nvml.nvmlDeviceGetMigMode, handle)
    return None if modes is None else bool(modes[0])


def _mig_slices(nvml: Any, handle: Any) -> Iterable[MigSlice]:
    for index in range(_ask(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        # The places are numbered to the maximum; those without a slice answer "not found".
        piece = _ask(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        if piece is None:
            continue
        memory = _ask(nvml, _memory, nvml, piece)
        yield MigSlice(
            index=index,
            uuid=_ask(nvml, nvml.nvmlDeviceGetUUID, piece),
            name=_ask(nvml, nvml.nvmlDeviceGetName, piece) or "MIG device",
            total_bytes=memory and int(memory.total),
            used_bytes=memory and int(memory.used),
            free_bytes=memory and int(memory.free),
        )


def _compute_capability(nvml: Any, handle: Any) -> str | None:
    pair = _ask(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
    return None if pair is None else f"{pair[0]}.{pair[1]}"


def _cuda_version(nvml: Any) -> str | None:
    """13000 is CUDA 13.0, 12080 is 12.8."""
    number = _ask(nvml, nvml.nvmlSystemGetCudaDriverVersion)
    return None if number is None else f"{number // 1000}.{number % 1000 // 10}"


def _ask(nvml: Any, question: Callable[..., Any], *arguments: Any) -> Any | None:
    """The answer, or None where the card does not support or not permit the question."""
    try:
        return question(*arguments)
    except nvml.NVMLError:
        return None
