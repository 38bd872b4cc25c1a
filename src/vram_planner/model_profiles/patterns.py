r"""
Regular expressions of a config.json, matched without backtracking: time grows with pattern times text, never worse.

Python's `re` may need exponential time for a hostile pattern. Here a pattern is a function from the set of places
where a match may have got to, to the set where it may go on; a set is the bits of one whole number. Read are what
quantisers write: names, `.`, `\.`, `\d`, `\w`, `[0-9]`, `(a|b)`, `(?:…)`, `(?!…)`, `(?=…)`, `* + ? {2,3}`, `^`, `$`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NoReturn

from vram_planner.errors import PrecisionError

if TYPE_CHECKING:
    from collections.abc import Callable

    Step = Callable[["_Text", int], int]

_LONGEST: Final = 512
_DEEPEST: Final = 3  # loops and looks ahead within each other
_DEEPEST_GROUPS: Final = 12
_MOST_REPEATS: Final = 16
_MOST_STEPS: Final = 4096
_CLASSES: Final[dict[str, Callable[[str], bool]]] = {
    "d": str.isdigit,
    "w": lambda char: char.isalnum() or char == "_",
    "s": str.isspace,
}


class _Text:
    """A name, with the places of each of its characters."""

    __slots__ = ("all", "at", "end")

    def __init__(self, text: str) -> None:
        self.at: dict[str, int] = {}
        for index, char in enumerate(text):
            self.at[char] = self.at.get(char, 0) | 1 << index
        self.end = 1 << len(text)
        self.all = self.end * 2 - 1


@lru_cache(maxsize=4096)
def _text(name: str) -> _Text:
    return _Text(name)


class Pattern:
    """One regular expression. Raises PrecisionError for what is not read."""

    __slots__ = ("_run",)

    def __init__(self, source: str) -> None:
        """Read the expression; bounds hold on its length, its nesting and its repeats."""
        self._run = _Parser(source).whole()

    def starts(self, name: str) -> bool:
        """As `re.match`: from the beginning, to wherever."""
        return self._run(_text(name), 1) != 0

    def covers(self, name: str) -> bool:
        """As `re.fullmatch`."""
        text = _text(name)
        return self._run(text, 1) & text.end != 0

    def within(self, name: str) -> bool:
        """As `re.search`."""
        text = _text(name)
        return self._run(text, text.all) != 0


@lru_cache(maxsize=4096)
def pattern(source: str) -> Pattern:
    """The same expression is read once."""
    return Pattern(source)


class _Parser:
    """Recursive descent; `steps` counts what one run costs, `loops` how deep loops lie in each other."""

    def __init__(self, source: str) -> None:
        self.source, self.at, self.steps, self.groups = source, 0, 0, 0
        if len(source) > _LONGEST:
            self._refuse()

    def whole(self) -> Step:
        step, _ = self._choice()
        if self.at < len(self.source):
            self._refuse()
        return step

    def _refuse(self) -> NoReturn:
        raise PrecisionError(
            f"cannot read the pattern {self.source[:60]!r} of modules",
            hint="we read names, '.', '.*', classes such as [0-9] and choices such as (up|down): write it so",
        )

    def _next(self) -> str:
        if self.at >= len(self.source):
            self._refuse()
        self.at += 1
        return self.source[self.at - 1]

    def _peek(self, text: str) -> bool:
        found = self.source.startswith(text, self.at)
        if found:
            self.at += len(text)
        return found

    def _choice(self) -> tuple[Step, int]:
        self.groups += 1
        if self.groups > _DEEPEST_GROUPS:
            self._refuse()
        branches = [self._sequence()]
        while self._peek("|"):
            branches.append(self._sequence())
        self.groups -= 1
        steps = tuple(step for step, _ in branches)
        return (steps[0] if len(steps) == 1 else _any_of(steps)), max(loops for _, loops in branches)

    def _sequence(self) -> tuple[Step, int]:
        steps, deepest = [], 0
        while self.at < len(self.source) and self.source[self.at] not in "|)":
            before = self.steps
            step, loops = self._atom()
            step, loops = self._repeated(step, loops, self.steps - before)
            if loops > _DEEPEST or self.steps > _MOST_STEPS:
                self._refuse()
            steps.append(step)
            deepest = max(deepest, loops)
        return _one_after_another(tuple(steps)), deepest

    def _atom(self) -> tuple[Step, int]:
        self.steps += 1
        char = self._next()
        if char == "(":
            return self._group()
        if char in "*+?{":
            self._refuse()
        if char == "[":
            return self._listed(), 0
        if char == "\\":
            return self._escaped(), 0
        simple: dict[str, Step] = {
            ".": lambda text, places: (places << 1) & text.all,
            "^": lambda _, places: places & 1,
            "$": lambda text, places: places & text.end,
        }
        return simple.get(char) or _literal(char), 0

    def _group(self) -> tuple[Step, int]:
        absent, present = self._peek("?!"), self._peek("?=")
        if not absent and not present and not self._peek("?:") and self._peek("?"):
            self._refuse()
        step, loops = self._choice()
        if self._next() != ")":
            self._refuse()
        if absent or present:
            return _ahead(step, wanted=present), loops + 1
        return step, loops

    def _escaped(self) -> Step:
        char = self._next()
        if char.lower() in _CLASSES:
            return _kind(_CLASSES[char.lower()], wanted=char.islower())
        if char.isalnum():
            self._refuse()
        return _literal(char)

    def _listed(self) -> Step:
        wanted = not self._peek("^")
        chars: set[str] = set()
        kinds: list[Callable[[str], bool]] = []
        first = True
        while first or not self._peek("]"):
            first = False
            char = self._next()
            if char == "\\":
                char = self._next()
                if char in _CLASSES:
                    kinds.append(_CLASSES[char])
                    continue
                if char.isalnum():
                    self._refuse()
            if self.source[self.at : self.at + 1] == "-" and self.source[self.at + 1 : self.at + 2] not in (
                "]",
                "",
            ):
                self.at += 1
                last = self._next()
                if not ord(char) <= ord(last) < ord(char) + 256:
                    self._refuse()
                chars.update(chr(code) for code in range(ord(char), ord(last) + 1))
            else:
                chars.add(char)
        return _kind(lambda char: char in chars or any(kind(char) for kind in kinds), wanted=wanted)

    def _repeated(self, step: Step, loops: int, cost: int) -> tuple[Step, int]:
        if self._peek("*"):
            step, loops = _loop(step), loops + 1
        elif self._peek("+"):
            step, loops = _one_after_another((step, _loop(step))), loops + 1
        elif self._peek("?"):
            return _any_of((step, _stay)), loops
        elif self._peek("{"):
            step = self._counted(step, cost)
        else:
            return step, loops
        self._peek("?")  # lazy or not, the same texts match
        return step, loops

    def _counted(self, step: Step, cost: int) -> Step:
        text, _, rest = self.source[self.at :].partition("}")
        self.at = len(self.source) - len(rest)
        low, comma, high = text.partition(",")
        if not low.isdecimal() or (not (high.isdecimal() or (comma and not high)) and comma):
            self._refuse()
        least = int(low[:4])
        most = int(high[:4]) if high else least
        if not least <= most <= _MOST_REPEATS or (comma and not high):
            self._refuse()
        self.steps += cost * most
        return _one_after_another((step,) * least + (_any_of((step, _stay)),) * (most - least))


def _stay(_: _Text, places: int) -> int:
    return places


def _literal(char: str) -> Step:
    return lambda text, places: (places & text.at.get(char, 0)) << 1


def _kind(test: Callable[[str], bool], *, wanted: bool) -> Step:
    def run(text: _Text, places: int) -> int:
        found = 0
        for char, where in text.at.items():
            if test(char) is wanted:
                found |= places & where
        return found << 1

    return run


def _one_after_another(steps: tuple[Step, ...]) -> Step:
    def run(text: _Text, places: int) -> int:
        for step in steps:
            places = step(text, places)
            if not places:
                return 0
        return places

    return run


def _any_of(steps: tuple[Step, ...]) -> Step:
    def run(text: _Text, places: int) -> int:
        found = 0
        for step in steps:
            found |= step(text, places)
        return found

    return run


def _loop(step: Step) -> Step:
    def run(text: _Text, places: int) -> int:
        found = new = places
        while new:
            new = step(text, new) & ~found
            found |= new
        return found

    return run


def _ahead(step: Step, *, wanted: bool) -> Step:
    def run(text: _Text, places: int) -> int:
        found, left = 0, places
        while left:
            place = left & -left
            left ^= place
            if (step(text, place) != 0) is wanted:
                found |= place
        return found

    return run
