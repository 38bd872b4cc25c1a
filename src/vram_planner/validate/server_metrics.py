"""The text that Prometheus scrapes, as samples: name, labels and a finite value."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_LINES = 100_000
_LONGEST_LINE = 1 << 16
_LINE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?\s*")
_LABEL = re.compile(r'([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"')
_ESCAPES = {r"\n": "\n", r"\"": '"', r"\\": "\\"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One line."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """All of one page."""

    samples: tuple[Sample, ...]

    def named(self, *names: str) -> tuple[Sample, ...]:
        """The samples of the first of these names that there is: releases rename them."""
        for name in names:
            if found := tuple(sample for sample in self.samples if sample.name == name):
                return found
        return ()

    def total(self, *names: str) -> float | None:
        """Summed over ranks and replicas; None where it is not told."""
        found = self.named(*names)
        return sum(sample.value for sample in found) if found else None

    def most(self, *names: str) -> float | None:
        """The largest of all ranks; None where it is not told."""
        return max((sample.value for sample in self.named(*names)), default=None)


def parse_metrics(text: str) -> Metrics:
    """
    Read the text format 0.0.4: comments, lines that are none, NaN and infinities are left out.

    Source: https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    samples = []
    for _, line in zip(range(_MOST_LINES), text.splitlines(), strict=False):
        if line.startswith("#") or len(line) > _LONGEST_LINE or (match := _LINE.fullmatch(line)) is None:
            continue
        value = _finite(match[3])
        if value is not None:
            labels = {name: _plain(told) for name, told in _LABEL.findall(match[2] or "")}
            samples.append(Sample(match[1], labels, value))
    return Metrics(tuple(samples))


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _plain(text: str) -> str:
    return re.sub(r"\\[n\"\\]", lambda match: _ESCAPES[match[0]], text)
