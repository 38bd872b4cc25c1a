"""What people type for a model's name: `llama3.1-8b`, `qwen3:8b`, `phi4`; and the names that look like a text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SEPARATORS: Final = re.compile(r"[-_: ]+")
_BEFORE_DIGIT: Final = re.compile(r"(?<=[a-z])-(?=\d)")
_MOST: Final = 3
_ALIKE: Final = 0.55


def canonical(name: str) -> str:
    """
    A name in lower case with one kind of separator, and none between a letter and a digit.

    Llama-3.1-8B, llama3.1-8b and `llama3.1:8b` are one name so.
    """
    return _BEFORE_DIGIT.sub("", _SEPARATORS.sub("-", name.lower()).strip("-"))


def meant(text: str, names: Iterable[str], aliases: Mapping[str, str]) -> str | None:
    """The model that a short name stands for when separators are let be; None where it is none, or several."""
    if "/" in text:
        return None
    wanted = canonical(text)
    by_alias = {model for alias, model in aliases.items() if canonical(alias) == wanted}
    found = by_alias or {name for name in names if canonical(name.rpartition("/")[2]) == wanted}
    return found.pop() if len(found) == 1 else None


def alike(text: str, names: Iterable[str], aliases: Iterable[str]) -> tuple[str, ...]:
    """Up to three names that look like the text: those that begin with it go first, the shortest before all."""
    import difflib  # noqa: PLC0415  only for mistakes

    by_key: dict[str, str] = {}
    for name in names:
        by_key.setdefault(canonical(name), name)
        by_key.setdefault(canonical(name.rpartition("/")[2]), name)
    by_key |= {canonical(alias): alias for alias in aliases}
    wanted = canonical(text[:100])
    begin = sorted(
        (key for key in by_key if wanted and key.startswith(wanted)), key=lambda key: (len(key), key)
    )
    inside = sorted(
        (key for key in by_key if f"-{wanted}" in key or f"-{wanted}-" in f"{key}-"),
        key=lambda key: (len(key), key),
    )
    close = difflib.get_close_matches(wanted, by_key, n=2 * _MOST, cutoff=_ALIKE)
    return tuple(dict.fromkeys(by_key[key] for key in (*begin, *inside, *close)))[:_MOST]
