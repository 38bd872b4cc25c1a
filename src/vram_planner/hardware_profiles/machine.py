"""What this machine's GPUs said: plain frozen values, None for what a card would not tell."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """Another program on the card; `used_bytes` is None where we may not see it."""

    pid: int
    used_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MigSlice:
    """One MIG device of a card, with the memory that is its own."""

    index: int
    uuid: str | None
    name: str
    total_bytes: int | None
    used_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectedGpu:
    """
    One card that NVML lists.

    `problem` says why a card can't be used (lost, no permission); all readings of it are then None.
    `assumed_total_bytes` is the machine's RAM where NVML doesn't support the memory query (unified memory).
    `processes` is None where the list can't be had, and leaves out our own process.
    """

    index: int
    uuid: str | None = None
    name: str = "unknown GPU"
    total_bytes: int | None = None
    reserved_bytes: int | None = None
    used_bytes: int | None = None
    free_bytes: int | None = None
    assumed_total_bytes: int | None = None
    memory_note: str | None = None
    compute_capability: str | None = None
    processes: tuple[GpuProcess, ...] | None = None
    mig_enabled: bool | None = None
    mig_slices: tuple[MigSlice, ...] = ()
    lost: bool = False
    problem: str | None = None

    @property
    def usable(self) -> bool:
        """Whether a plan can be made for it."""
        return self.problem is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The driver and its cards, in NVML's order (by PCI bus, which need not be CUDA's)."""

    driver_version: str | None
    cuda_driver_version: str | None
    gpus: tuple[DetectedGpu, ...]

    @property
    def usable_gpus(self) -> tuple[DetectedGpu, ...]:
        """The cards that answered."""
        return tuple(gpu for gpu in self.gpus if gpu.usable)
