"""One validation a device: a lock that the operating system lets go of when its holder dies."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vram_planner.validate.faults import BusyError, CannotMeasureError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LONGEST_NAME = 100


def lock_folder() -> Path:
    """Where locks lie: the user's run-time folder, else the cache."""
    base = os.environ.get("XDG_RUNTIME_DIR") or os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "vram-planner"


@contextmanager
def device_lock(device: str, folder: Path | None = None) -> Iterator[None]:
    """
    Hold the lock of one device while open.

    Raises BusyError, with the holder's process id, where another validation has it.
    """
    place = folder or lock_folder()
    path = place / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', device)[:_LONGEST_NAME]}.lock"
    try:
        place.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise CannotMeasureError(
            f"no lock can be made at {path}: {error}", hint="set XDG_RUNTIME_DIR to a folder you may write to"
        ) from error
    try:
        if not _take(handle):
            holder = os.pread(handle, 20, 0).decode(errors="replace").strip() or "another process"
            raise BusyError(
                f"process {holder} is validating on {device} already",
                hint="two at once would measure each other: wait for it, or choose another --gpu",
            )
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)  # which lets go of the lock


@contextmanager
def device_locks(devices: Iterable[str], folder: Path | None = None) -> Iterator[None]:
    """
    Hold the locks of several devices while open, taken in the order of their names, whoever asks.

    No one waits for a lock, so that there is no deadlock; where one is held, those taken are let go of, and
    BusyError is raised.
    """
    with ExitStack() as stack:
        for device in sorted(set(devices)):
            stack.enter_context(device_lock(device, folder))
        yield


def _take(handle: int) -> bool:
    try:
        fcntl: Any = import_module("fcntl")
    except ImportError:  # Windows has none, and its locks cannot be read past
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
