"""
A reader for the JSON of weight files: bounded, position by position, every refusal with its offset.

Python's own parser would do, but a hostile header of 30 MB (`[[],[],[],…`) makes it take a gigabyte. This one
builds nothing that was not asked for.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final, NoReturn

from vram_planner.errors import HeaderError
from vram_planner.model_profiles.headers import DAMAGED, LONGEST_TEXT, short_name

if TYPE_CHECKING:
    from collections.abc import Iterator

_SPACE: Final = re.compile(rb"[ \t\n\r]*+")
_PLAIN_STRING: Final = re.compile(rb'"([^"\\\x00-\x1f]*+)"')
_STRING: Final = re.compile(rb'"((?:[^"\\\x00-\x1f]++|\\.)*+)"')
_NUMBER: Final = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?")
_WORD: Final = re.compile(rb"true|false|null")
_DEEPEST: Final = 16
_LONGEST_NUMBER: Final = 32


class JsonReader:
    """
    Reads `data` from a position on. `start` is where `data` lies in the file, for messages.

    Raises HeaderError for what is no JSON, no UTF-8, or nested more deeply than 16 levels.
    """

    __slots__ = ("_name", "_start", "data", "pos")

    def __init__(self, data: bytes, *, name: str, start: int = 0) -> None:
        """Of bytes, which must be UTF-8 throughout."""
        self.data, self.pos, self._name, self._start = data, 0, short_name(name), start
        if not data.isascii():
            try:
                data.decode()
            except UnicodeDecodeError as error:
                self.refuse("is no UTF-8 text", error.start)

    def refuse(self, what: str, position: int | None = None) -> NoReturn:
        """Raise HeaderError at a position, by default the present one."""
        offset = self._start + (self.pos if position is None else position)
        raise HeaderError(f"{self._name}: {what}", hint=DAMAGED, offset=offset)

    def peek(self) -> bytes:
        """The next byte that is no space, b"" at the end."""
        found = _SPACE.match(self.data, self.pos)
        self.pos = found.end() if found else self.pos
        return self.data[self.pos : self.pos + 1]

    def expect(self, wanted: bytes) -> None:
        """Step over this byte."""
        if self.peek() != wanted:
            self.refuse(f"{wanted.decode()!r} was expected")
        self.pos += 1

    def end(self) -> None:
        """Nothing but spaces may follow."""
        if self.peek():
            self.refuse("more follows after the header's object")

    def string(self, longest: int = LONGEST_TEXT) -> str:
        """A string; a longer one is refused."""
        position, raw = self._string()
        if len(raw) > longest:
            self.refuse(f"a string of {len(raw):,} bytes", position)
        if b"\\" not in raw:
            return raw.decode()
        try:
            text: str = json.loads(b'"' + raw + b'"')
            text.encode()
        except (ValueError, UnicodeEncodeError):
            self.refuse("a string that is no JSON", position)
        return text

    def _string(self) -> tuple[int, bytes]:
        self.peek()
        position = self.pos
        found = _PLAIN_STRING.match(self.data, position) or _STRING.match(self.data, position)
        if found is None:
            self.refuse("a string was expected")
        self.pos = found.end()
        return position, found[1]

    def integer(self) -> int:
        """A whole number that is not negative and below 2**63."""
        self.peek()
        found = _NUMBER.match(self.data, self.pos)
        text = found[0] if found else b""
        if not text.isdigit() or len(text) > _LONGEST_NUMBER or int(text) >= 1 << 63:
            self.refuse("a whole number that is not negative was expected")
        self.pos += len(text)
        return int(text)

    def integers(self, most: int) -> tuple[int, ...]:
        """A list of at most so many whole numbers."""
        found: list[int] = []
        for _ in self._items(b"[", b"]"):
            if len(found) == most:
                self.refuse(f"more than {most} numbers in a list")
            found.append(self.integer())
        return tuple(found)

    def fields(self) -> Iterator[str]:
        """The keys of an object; after each the caller reads its value. A key that comes twice is refused."""
        seen: set[str] = set()
        for _ in self._items(b"{", b"}"):
            self.peek()
            position = self.pos
            key = self.string()
            if key in seen:
                self.refuse(f"the key {key[:80]!r} comes twice", position)
            seen.add(key)
            self.expect(b":")
            yield key

    def _items(self, opening: bytes, closing: bytes) -> Iterator[None]:
        self.expect(opening)
        if self.peek() == closing:
            self.pos += 1
            return
        while True:
            yield
            after = self.peek()
            if after not in (b",", closing):
                self.refuse(f"',' or {closing.decode()!r} was expected")
            self.pos += 1
            if after == closing:
                return

    def after_item(self) -> bool:
        """Step over what follows an entry of an object; whether it was the last."""
        after = self.peek()
        if after not in (b",", b"}"):
            self.refuse("',' or '}' was expected")
        self.pos += 1
        return after == b"}"

    def skip(self, depth: int = 0) -> None:
        """Step over a value of any kind."""
        if depth > _DEEPEST:
            self.refuse(f"nested more than {_DEEPEST} levels deep")
        kind = self.peek()
        if kind == b'"':
            self._string()
        elif kind == b"{":
            for _ in self._items(b"{", b"}"):
                self._string()
                self.expect(b":")
                self.skip(depth + 1)
        elif kind == b"[":
            for _ in self._items(b"[", b"]"):
                self.skip(depth + 1)
        else:
            found = _NUMBER.match(self.data, self.pos) or _WORD.match(self.data, self.pos)
            if found is None:
                self.refuse("a value was expected")
            self.pos = found.end()
