"""The bar of the stage that runs now, on stderr; silent where no one looks."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

_WIDTH, _BAR, _BLOCK = 78, 20, 4
_EVERY_S, _AFTER_S = 0.2, 1.0


class Steps:
    """
    Called with the name of each stage as it begins; a context manager that leaves an empty line.

    A stage of more than a second gets a bar: filled as far as `share` was told, else a block that goes to and fro.
    A thread of its own draws, for the stage has the main one.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._name = ""
        self._share: float | None = None
        self._began = time.monotonic()
        self._drawn = False
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        if self._stream.isatty():
            self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self._wipe()

    def __call__(self, name: str) -> None:
        """Say what begins."""
        with self._lock:
            self._name, self._share, self._began = name, None, time.monotonic()

    def share(self, done: float) -> None:
        """How much of this stage is done, from 0 to 1."""
        with self._lock:
            self._share = min(1.0, max(0.0, done))

    def line(self, took_s: float) -> str:
        """The bar, the seconds that the stage has run, and its name."""
        with self._lock:
            name, share = self._name, self._share
        if share is None:
            path = _BAR - _BLOCK
            where = int(took_s / _EVERY_S) % (2 * path)
            at = min(where, 2 * path - where)
            bar = " " * at + "#" * _BLOCK + " " * (path - at)
        else:
            bar = f"{'#' * round(share * _BAR):<{_BAR}}"
        done = "" if share is None else f" {share:4.0%}"
        return f"[{bar}]{done} {took_s:4.0f} s  {name}"[:_WIDTH]

    def _run(self) -> None:
        for _ in self._ticks():
            with self._lock:
                took = time.monotonic() - self._began
            if self._name and took > _AFTER_S:
                self._stream.write(f"\r{self.line(took):<{_WIDTH}}")
                self._stream.flush()
                self._drawn = True
            else:
                self._wipe()

    def _ticks(self) -> Iterator[None]:
        while not self._over.wait(_EVERY_S):
            yield

    def _wipe(self) -> None:
        if self._drawn:
            self._stream.write(f"\r{'':<{_WIDTH}}\r")
            self._stream.flush()
            self._drawn = False
