"""Where simulated requests come from: at random times, or from users who wait for their answers. Pure."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Arrivals(Protocol):
    """Where requests come from: at fixed times, or from users who wait for their answers."""

    def next_at(self) -> float:
        """When the next request comes; infinity while none is known."""

    def take(self) -> tuple[int, int]:
        """Prompt and output of the one that comes next; no output where the engine refuses it."""

    def finished(self, now: float) -> None:
        """A request ended: its user may come again."""


class Poisson:
    """Requests at random times, `rate` a second, of lengths that `draw` gives; at most `most` that are not refused."""

    def __init__(
        self,
        rate: float,
        gap: Callable[[float], float],
        draw: Callable[[], tuple[int, int]],
        most: float = inf,
    ) -> None:
        self.rate, self.gap, self.draw, self.left = rate, gap, draw, most
        self.at = gap(rate)

    def next_at(self) -> float:
        """When the next request comes."""
        return self.at if self.left > 0 else inf

    def take(self) -> tuple[int, int]:
        """Its lengths; the one after it is drawn."""
        self.at += self.gap(self.rate)
        prompt, output = self.draw()
        self.left -= output > 0
        return prompt, output

    def finished(self, now: float) -> None:
        """Others come whatever became of this one."""


class Users:
    """People who wait for an answer, think for `think()` seconds and ask again."""

    def __init__(self, users: int, think: Callable[[], float], draw: Callable[[], tuple[int, int]]) -> None:
        self.think, self.draw = think, draw
        self.asking = [think() for _ in range(users)]
        heapify(self.asking)

    def next_at(self) -> float:
        """When the first of them is done thinking."""
        return self.asking[0] if self.asking else inf

    def take(self) -> tuple[int, int]:
        """The lengths of what that one asks."""
        heappop(self.asking)
        return self.draw()

    def finished(self, now: float) -> None:
        """One has an answer and thinks."""
        heappush(self.asking, now + self.think())


class Listed:
    """Requests at given times, in any order, with their lengths; no more come after the last."""

    def __init__(self, requests: Iterable[tuple[float, int, int]]) -> None:
        self.left = sorted(requests, key=lambda each: each[0], reverse=True)

    def next_at(self) -> float:
        """When the next request comes."""
        return self.left[-1][0] if self.left else inf

    def take(self) -> tuple[int, int]:
        """Its lengths."""
        _, prompt, output = self.left.pop()
        return prompt, output

    def finished(self, now: float) -> None:
        """Others come whatever became of this one."""
