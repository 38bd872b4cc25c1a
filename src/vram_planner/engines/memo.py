"""Answers that hang on a model, a format and a layout alone are worked out once: searches and sweeps ask them again and again."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

_MOST = 64
Asked = ParamSpec("Asked")
Found = TypeVar("Found")


def once(function: Callable[Asked, Found]) -> Callable[Asked, Found]:
    """
    Remember the last 64 answers by the very objects asked about, and the last of them, a layout, by its value.

    A model is compared by identity, for comparing all of its layers takes longer than most answers; it is kept
    alive beside its answer, so that no other object can get its place. What raises is not remembered.
    """
    known: dict[Hashable, tuple[object, Found]] = {}

    @wraps(function)
    def remembered(*asked: Asked.args, **named: Asked.kwargs) -> Found:
        key = (*map(id, asked[:-1]), asked[-1])
        entry = known.get(key)
        if entry is None:
            entry = asked, function(*asked, **named)
            if len(known) >= _MOST:
                known.pop(next(iter(known)), None)
            known[key] = entry
        return entry[1]

    return remembered
