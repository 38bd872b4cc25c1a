"""Answers that hang on a model, a format and a layout alone are worked out once: searches and sweeps ask them again and again."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.parallel import Layout
    from vram_planner.architecture.precision import Precision

_MOST = 64
Found = TypeVar("Found")


def once(
    function: Callable[[Architecture, Precision, Layout], Found],
) -> Callable[[Architecture, Precision, Layout], Found]:
    """
    Remember the last 64 answers by the very objects asked about.

    A model is compared by identity, for comparing all of its layers takes longer than most answers; it is kept
    alive beside its answer, so that no other object can get its place. What raises is not remembered.
    """
    known: dict[Hashable, tuple[Architecture, Precision, Found]] = {}

    @wraps(function)
    def remembered(architecture: Architecture, precision: Precision, layout: Layout) -> Found:
        key = id(architecture), id(precision), layout
        entry = known.get(key)
        if entry is None:
            entry = architecture, precision, function(architecture, precision, layout)
            if len(known) >= _MOST:
                known.pop(next(iter(known)), None)
            known[key] = entry
        return entry[2]

    return remembered
