"""Three readings of one moment: what torch holds, what it reserved, what the process holds."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_KIB = 1024
_PEAK_RESET = "5"
_PHASE = "vram_planner:"
_OF_TORCH = ("allocated_bytes", "allocated_peak_bytes", "reserved_bytes", "reserved_peak_bytes")
_STATUS, _ROLLUP, _CLEAR = "/proc/self/status", "/proc/self/smaps_rollup", "/proc/self/clear_refs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """
    Bytes now and at the peak since the last reset; None where this device cannot tell.

    On a GPU the process's own bytes come from NVML, which the parent asks. On the CPU they are its
    proportional share (PSS) now and its largest resident set at the peak.
    """

    allocated_bytes: int | None = None
    allocated_peak_bytes: int | None = None
    reserved_bytes: int | None = None
    reserved_peak_bytes: int | None = None
    process_bytes: int | None = None
    process_peak_bytes: int | None = None
    cards: tuple[Reading, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As the child sends it; `cards` only where there are several."""
        found = asdict(self)
        if self.cards:
            return {**found, "cards": [card.to_dict() for card in self.cards]}
        del found["cards"]
        return found


class CudaMeter:
    """
    torch's caching allocator on the first `cards` GPUs that the process sees.

    Over several, each is read by itself; the figures of the whole are their sums, peaks too: each card's own peak,
    which need not be at the same moment.
    """

    def __init__(self, torch: Any, cards: int = 1) -> None:
        self._torch, self._cards = torch, range(cards)
        self._found: dict[str, Reading] = {}

    def open(self) -> None:
        """Make each context and cuBLAS work space, so that all are there before the first reading."""
        for card in self._cards:
            ones = self._torch.ones(64, 64, dtype=self._torch.float16, device=f"cuda:{card}")
            (ones @ ones).sum().item()
        self.settle()

    def make_room(self, build: Callable[[], Any]) -> None:
        """
        One block for the whole model, let go at once: the weights that come next are cut from it, as those of files are.

        Source: caching_allocator_warmup, transformers 5.23.0 modeling_utils.py, which `from_pretrained` calls first.
        """
        with self._torch.device("meta"):
            n_bytes = sum(weight.nbytes for weight in build().parameters())
        self._torch.empty(n_bytes // 2, dtype=self._torch.float16, device="cuda")

    def settle(self) -> None:
        """Wait for the devices and give back what is not used."""
        self.synchronize()
        self._torch.cuda.empty_cache()  # of every device

    def synchronize(self) -> None:
        """Wait for the devices."""
        for card in self._cards:
            self._torch.cuda.synchronize(card)

    @contextmanager
    def session(self, held_bytes: int = 0) -> Iterator[dict[str, Reading]]:  # noqa: ARG002  the allocator knows it
        """Readings of the phases inside, by name."""
        self._found = {}
        yield self._found

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A part of the session with a peak of its own."""
        self.mark_peak()
        yield
        self.synchronize()
        self._found[name] = self.read()

    def mark_peak(self) -> None:
        """Peaks are counted from here."""
        self.settle()
        for card in self._cards:
            self._torch.cuda.reset_peak_memory_stats(card)

    def read(self) -> Reading:
        """What the allocator says now."""
        found = tuple(self._read(card) for card in self._cards)
        if len(found) == 1:
            return found[0]
        return Reading(**{name: sum(getattr(one, name) for one in found) for name in _OF_TORCH}, cards=found)

    def _read(self, card: int) -> Reading:
        cuda = self._torch.cuda
        return Reading(
            allocated_bytes=cuda.memory_allocated(card),
            allocated_peak_bytes=cuda.max_memory_allocated(card),
            reserved_bytes=cuda.memory_reserved(card),
            reserved_peak_bytes=cuda.max_memory_reserved(card),
        )

    def limit_bytes(self) -> int:
        """What may be used in all."""
        return sum(self.card_limit_bytes())

    def card_limit_bytes(self) -> tuple[int, ...]:
        """What may be used on each card: free now and what torch has reserved."""
        cuda = self._torch.cuda
        return tuple(int(cuda.mem_get_info(card)[0] + cuda.memory_reserved(card)) for card in self._cards)


class CpuMeter:
    """
    torch's CPU profiler for what it allocates, the kernel's figures for what the process holds.

    The profiler tells each allocation and release while it runs, of which the sum is taken; it says nothing of
    a release of what was there before, so one session spans all that comes and goes.
    """

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._resets_peak = False
        self._found: dict[str, Reading] = {}

    def open(self) -> None:
        """Load what the first operation loads."""
        ones = self._torch.ones(64, 64)
        with self.session(), self.phase("first"):
            (ones @ ones).sum().item()

    def settle(self) -> None:
        """Give freed pages back to the system."""
        with suppress(OSError, AttributeError):
            import_module("ctypes").CDLL("libc.so.6").malloc_trim(0)

    def synchronize(self) -> None:
        """Nothing runs beside us on a CPU."""

    def mark_peak(self) -> None:
        """The largest resident set is counted from here."""
        self.settle()
        self._resets_peak = _reset_peak()

    def make_room(self, build: Callable[[], Any]) -> None:
        """The CPU's memory comes as it is asked for."""

    @contextmanager
    def session(self, held_bytes: int = 0) -> Iterator[dict[str, Reading]]:
        """Readings of the phases inside, by name, complete when it ends; `held_bytes` are alive all along."""
        self._found = {}
        profiler = import_module("torch.profiler")
        with profiler.profile(
            activities=[profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=False
        ) as run:
            yield self._found
        events = run.profiler.kineto_results.events()
        curve = _running_sum(events, held_bytes)
        for event in events:
            name = event.name().removeprefix(_PHASE)
            if name in self._found and name != event.name():
                end = event.start_ns() + event.duration_ns()
                self._found[name] = _with_peak(self._found[name], curve, event.start_ns(), end)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A part of the session with a peak of its own."""
        self.mark_peak()
        with self._torch.profiler.record_function(_PHASE + name):
            yield
        self._found[name] = self.read()

    def read(self) -> Reading:
        """The process now."""
        return Reading(
            process_bytes=_field(_ROLLUP, "Pss:"),
            process_peak_bytes=_field(_STATUS, "VmHWM:") if self._resets_peak else None,
        )

    def limit_bytes(self) -> int:
        """What the process holds and what the machine has left."""
        held = _field(_STATUS, "VmRSS:") or 0
        return held + (_field("/proc/meminfo", "MemAvailable:") or 0)

    def card_limit_bytes(self) -> tuple[int, ...]:
        """There are no cards."""
        return ()


def meter_for(torch: Any, device: str, cards: int = 1) -> CudaMeter | CpuMeter:
    """The meter of a torch device, or of so many."""
    return CudaMeter(torch, cards) if device == "cuda" else CpuMeter(torch)


def resident_bytes(pid: int) -> int | None:
    """The resident set of another process; None where the kernel does not tell."""
    return _field(f"/proc/{pid}/status", "VmRSS:")


def _running_sum(events: Any, held_bytes: int) -> list[tuple[int, int]]:
    """(time, bytes alive) after each allocation and release."""
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    curve, live = [(0, held_bytes)], held_bytes
    for moment, n_bytes in changes:
        live += n_bytes
        curve.append((moment, live))
    return curve


def _with_peak(reading: Reading, curve: list[tuple[int, int]], start: int, end: int) -> Reading:
    before = [live for moment, live in curve if moment <= start][-1]
    inside = [live for moment, live in curve if start < moment <= end]
    return replace(
        reading, allocated_bytes=inside[-1] if inside else before, allocated_peak_bytes=max([before, *inside])
    )


def _reset_peak() -> bool:
    """Set the kernel's mark of the largest resident set back to now."""
    try:
        Path(_CLEAR).write_text(_PEAK_RESET, encoding="ascii")
    except OSError:
        return False
    return True


def _field(file: str, name: str) -> int | None:
    """A line `Name: 123 kB` of a file under /proc, in bytes; None where there is none (not Linux)."""
    try:
        with Path(file).open(encoding="ascii") as lines:
            for line in lines:
                if line.startswith(name):
                    return int(line.split()[1]) * _KIB
    except (OSError, ValueError, IndexError):
        return None
    return None


def limit_address_space(n_bytes: int) -> None:
    """The process may not grow beyond this many bytes more than it has (Linux, macOS)."""
    resource: Any = import_module("resource")
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    now = pages * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + n_bytes, now + n_bytes))
