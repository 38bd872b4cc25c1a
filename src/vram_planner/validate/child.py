"""
A process of its own for what may run out of memory, hang or be killed: its end is an answer, never ours.

Parent and child speak JSON lines: a request down the child's stdin, one answer up its stdout. What libraries
print goes to stderr, of which the last lines are kept.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_KEPT_CHARACTERS = 2000
_LONGEST_ANSWER = 1 << 22
_POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """
    What came of a request.

    `ended` is "answered", "died" (the process is gone; `note` says how) or "hung" (it was killed at the limit).
    """

    ended: str
    answer: dict[str, Any]
    note: str = ""

    @property
    def answered(self) -> bool:
        """Whether the child is there and said something."""
        return self.ended == "answered"


class Child:
    """One supervised process; a context manager that leaves none behind."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        self._process = subprocess.Popen(  # noqa: S603  our own interpreter
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=None if environment is None else dict(environment),
            start_new_session=True,
        )
        self._pending = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End it and let its last words go."""
        self.kill()
        self._errors.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def ask(
        self, request: Mapping[str, Any], *, limit_s: float, meanwhile: Callable[[], None] = lambda: None
    ) -> Reply:
        """
        One request and its answer; the child is killed where that takes longer than `limit_s`.

        `meanwhile` is called again and again while it works.
        """
        deadline = time.monotonic() + limit_s
        stream = self._process.stdin
        try:
            if stream is None:
                return self._died()
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
        except (BrokenPipeError, OSError, ValueError):
            return self._died()
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0:
                self.kill()
                return Reply(ended="hung", answer={}, note=f"no answer within {limit_s:.0f} s: it was killed")
            meanwhile()
            chunk = self._read(min(left, _POLL_S))
            if chunk == b"" or len(self._pending) > _LONGEST_ANSWER:
                return self._died()
            self._pending += chunk or b""
        line, _, self._pending = self._pending.partition(b"\n")
        try:
            return Reply(ended="answered", answer=dict(json.loads(line)))
        except (ValueError, TypeError):
            self.kill()
            return Reply(ended="died", answer={}, note=f"it answered no JSON: {line[:80]!r}")

    def kill(self) -> None:
        """End it and all that it started, and wait until it is gone."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def last_words(self) -> str:
        """The end of what it wrote to stderr."""
        with suppress(OSError, ValueError):
            size = self._errors.seek(0, os.SEEK_END)
            self._errors.seek(max(0, size - _KEPT_CHARACTERS))
            return self._errors.read().decode(errors="replace").strip()
        return ""

    def _read(self, wait_s: float) -> bytes | None:
        """What it said, b"" when it has closed its end, None when nothing came in time."""
        stream = self._process.stdout
        if stream is None:
            return b""
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            if not selector.select(wait_s):
                return None
        return os.read(stream.fileno(), 1 << 16)

    def _died(self) -> Reply:
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
        code = self._process.returncode
        words = self.last_words().splitlines()
        last = f": {words[-1][:300]}" if words else ""
        how = f"killed by {_signal_name(-code)}" if code < 0 else f"exit status {code}"
        return Reply(ended="died", answer={}, note=how + last)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
