"""
The header of a GGUF file, version 2 or 3: metadata and tensor descriptions, not a byte of data.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; limits as in llama.cpp,
https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/gguf.cpp (gguf_init_from_file_impl).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from struct import Struct
from struct import error as struct_error
from typing import TYPE_CHECKING, Any, Final, NoReturn

from vram_planner.model_profiles.headers import LONGEST_TEXT, ByteSource, Header, StoredTensor, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

# Number of the type in the file, its name, elements and bytes of a block. Source: ggml/include/ggml.h (ggml_type)
# and ggml/src/ggml-common.h.
GGML_FILE_TYPES: Final[Mapping[int, tuple[str, int, int]]] = {
    0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 9: ("q8_1", 32, 36), 10: ("q2_k", 256, 84), 11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144), 13: ("q5_k", 256, 176), 14: ("q6_k", 256, 210), 15: ("q8_k", 256, 292),
    16: ("iq2_xxs", 256, 66), 17: ("iq2_xs", 256, 74), 18: ("iq3_xxs", 256, 98), 19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18), 21: ("iq3_s", 256, 110), 22: ("iq2_s", 256, 82), 23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1), 25: ("i16", 1, 2), 26: ("i32", 1, 4), 27: ("i64", 1, 8), 28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56), 30: ("bf16", 1, 2), 34: ("tq1_0", 256, 54), 35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17), 40: ("nvfp4", 64, 36), 41: ("q1_0", 128, 18),
}  # fmt: skip
# Far above anything published (152k to 262k tokens, half a million merges, 40,000 tensors), and low enough that a
# hostile file is refused in a fraction of a second.
MOST_KEYS: Final = 4_096
MOST_TENSORS: Final = 100_000
MOST_STRINGS: Final = 1_500_000
_LONGEST_NAME: Final = 1_024
_LONGEST_STRING: Final = 64 << 20
_MOST_KEPT: Final = 2_048
_MOST_DIMS: Final = 4
_MOST_ELEMENTS: Final = 1 << 63
_VERSIONS: Final = (2, 3)
_ALIGNMENT: Final = 32
_MOST_ALIGNMENT: Final = 1 << 20
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: Final = {
    number: Struct(f"<{letter}")
    for number, letter in {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}.items()
}  # fmt: skip
_COUNTS: Final = Struct("<QQ")
_LENGTH: Final = Struct("<Q")
_WORD: Final = Struct("<I")
_ARRAY_HEAD: Final = Struct("<IQ")
_KEY: Final = re.compile(r"[\w.\-/]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Skipped:
    """An array that was passed over: a vocabulary. Only its length is known."""

    count: int


class _Cursor:
    """Walks through a file from its start with a buffer of its own; jumps over what is not needed."""

    __slots__ = ("_base", "_buffer", "_pos", "_source", "strings_left")

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._buffer = b""
        self._base = self._pos = 0
        self.strings_left = MOST_STRINGS

    @property
    def offset(self) -> int:
        """Where it stands in the file."""
        return self._base + self._pos

    def refuse(self, what: str, offset: int | None = None) -> NoReturn:
        refuse(self._source, what, self.offset if offset is None else offset)

    def _need(self, length: int) -> None:
        """Have so many bytes in the buffer."""
        if self._pos + length <= len(self._buffer):
            return
        offset, left = self.offset, self._source.size - self.offset
        if length > left:
            self.refuse(f"cut off: {length:,} bytes should follow, {max(0, left):,} do")
        self._buffer = self._source.read_at(offset, min(left, max(length, self._source.block)))
        self._base, self._pos = offset, 0

    def unpack(self, form: Struct) -> tuple[Any, ...]:
        self._need(form.size)
        values = form.unpack_from(self._buffer, self._pos)
        self._pos += form.size
        return values

    def jump(self, length: int) -> None:
        """Pass over so many bytes without reading them."""
        if length > self._source.size - self.offset:
            self.refuse(f"cut off: {length:,} bytes should follow")
        self._pos += length
        if self._pos > len(self._buffer):
            self._base, self._pos, self._buffer = self.offset, 0, b""

    def name(self, what: str) -> str:
        """A short string that must be there in full."""
        start = self.offset
        (length,) = self.unpack(_LENGTH)
        if not 0 < length <= _LONGEST_NAME:
            self.refuse(f"{what} of {length:,} bytes", start)
        return self._text(length, start)

    def text(self) -> str | None:
        """A string; None where it is too long to be a figure."""
        start = self.offset
        (length,) = self.unpack(_LENGTH)
        if length > _LONGEST_STRING:
            self.refuse(f"a string of {length:,} bytes", start)
        if length > LONGEST_TEXT:
            self.jump(length)
            return None
        return self._text(length, start)

    def _text(self, length: int, start: int) -> str:
        self._need(length)
        raw = self._buffer[self._pos : self._pos + length]
        self._pos += length
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            self.refuse("a string that is no UTF-8", start + _LENGTH.size + error.start)

    def skip_strings(self, count: int) -> None:
        """Pass over so many strings: their lengths are read, they are not."""
        if count > self.strings_left:
            self.refuse(f"{count:,} strings in arrays, the bound is {MOST_STRINGS:,} a file")
        self.strings_left -= count
        unpack, longest = _LENGTH.unpack_from, _LONGEST_STRING
        while count:
            self._need(_LENGTH.size)
            buffer, pos, left = self._buffer, self._pos, count
            try:
                for left in range(count, 0, -1):  # noqa: B007  counted on where the buffer ends
                    (length,) = unpack(buffer, pos)
                    if length > longest:
                        self._pos = pos
                        self.refuse(f"a string of {length:,} bytes")
                    pos += 8 + length
                left = 0
            except struct_error:  # the buffer ends here, perhaps in the middle of a length
                pass
            count = left
            step, self._pos = pos - self._pos, self._pos
            self.jump(step)


def read_gguf(source: ByteSource) -> Header:
    """
    The header of one file. Raises HeaderError with the offset.

    Numbers, short strings and short lists of numbers are kept in `metadata`; long strings (a chat template) are
    None, vocabularies are `Skipped`.
    """
    cursor = _Cursor(source)
    n_tensors, n_keys = _read_start(cursor, source)
    metadata: dict[str, Any] = {}
    for _ in range(n_keys):
        start = cursor.offset
        key = cursor.name("a key")
        if not _KEY.fullmatch(key):
            cursor.refuse(f"the key {key[:80]!r}", start)
        if key in metadata:
            cursor.refuse(f"the key {key[:80]!r} comes twice", start)
        metadata[key] = _read_value(cursor)
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= _MOST_ALIGNMENT or alignment & (alignment - 1):
        cursor.refuse(f"an alignment of {alignment!r} is no power of two")
    tensors = _read_tensors(cursor, source, n_tensors, alignment)
    return Header(
        tensors=tensors, metadata=metadata, source=source.name, format="gguf", file_bytes=source.size
    )


def _read_start(cursor: _Cursor, source: ByteSource) -> tuple[int, int]:
    (magic,) = cursor.unpack(Struct("<4s"))
    if magic != b"GGUF":
        older = magic in (b"lmgg", b"fmgg", b"tjgg", b"ggml", b"ggmf", b"ggjt")
        known = "an old GGML file" if older else f"no GGUF file: it starts with {magic!r}"
        refuse(source, known, 0, hint="give a GGUF file; older formats must be converted with llama.cpp")
    (version,) = cursor.unpack(_WORD)
    if version not in _VERSIONS:
        big = version and not version & 0xFFFF
        what = "a big-endian file" if big else f"version {version}"
        refuse(source, f"GGUF {what} is not read", 4, hint="convert it to GGUF version 3, little-endian")
    n_tensors, n_keys = cursor.unpack(_COUNTS)
    if n_tensors > MOST_TENSORS:
        cursor.refuse(f"{n_tensors:,} tensors, the bound is {MOST_TENSORS:,}", 8)
    if n_keys > MOST_KEYS:
        cursor.refuse(f"{n_keys:,} keys, the bound is {MOST_KEYS:,}", 16)
    return n_tensors, n_keys


def _read_value(cursor: _Cursor) -> Any:
    start = cursor.offset
    (kind,) = cursor.unpack(_WORD)
    if kind == _STRING:
        return cursor.text()
    if kind == _ARRAY:
        return _read_array(cursor)
    form = _SCALARS.get(kind)
    if form is None:
        cursor.refuse(f"a value of the unknown type {kind:,}", start)
    (value,) = cursor.unpack(form)
    if kind == _BOOL:
        return _flag(cursor, value)
    return value


def _flag(cursor: _Cursor, value: int) -> bool:
    if value > 1:
        cursor.refuse(f"a flag of {value}", cursor.offset - 1)
    return bool(value)


def _read_array(cursor: _Cursor) -> Any:
    start = cursor.offset
    kind, count = cursor.unpack(_ARRAY_HEAD)
    if kind == _STRING:
        cursor.skip_strings(count)
        return Skipped(count)
    form = _SCALARS.get(kind)
    if form is None:
        what = "an array of arrays" if kind == _ARRAY else f"an array of the unknown type {kind:,}"
        cursor.refuse(what, start)
    if count > _MOST_KEPT:
        cursor.jump(count * form.size)
        return Skipped(count)
    values = cursor.unpack(Struct(f"<{count}{form.format[1:]}"))
    return tuple(_flag(cursor, value) for value in values) if kind == _BOOL else values


def _read_tensors(
    cursor: _Cursor, source: ByteSource, count: int, alignment: int
) -> tuple[StoredTensor, ...]:
    tensors: dict[str, StoredTensor] = {}
    spans = []
    for _ in range(count):
        start = cursor.offset
        name = cursor.name("a tensor's name")
        if name in tensors:
            cursor.refuse(f"the tensor {name[:80]!r} comes twice", start)
        tensors[name], offset = _read_tensor(cursor, name, start)
        if offset % alignment:
            cursor.refuse(f"the data of {name[:80]!r} are not aligned to {alignment}", start)
        spans.append((offset, offset + tensors[name].n_bytes, start))
    data_start = -(-cursor.offset // alignment) * alignment
    reached = 0
    for begin, end, start in sorted(spans):
        if begin < reached:
            cursor.refuse(f"a tensor's data (from {begin:,}) overlap those before them", start)
        reached = end
        if data_start + end > source.size:
            cursor.refuse(
                f"a tensor's data end at byte {data_start + end:,}, the file at {source.size:,}", start
            )
    return tuple(tensors.values())


def _read_tensor(cursor: _Cursor, name: str, start: int) -> tuple[StoredTensor, int]:
    (n_dims,) = cursor.unpack(_WORD)
    if n_dims > _MOST_DIMS:
        cursor.refuse(f"the tensor {name[:80]!r} has {n_dims:,} dimensions", start)
    *dims, kind, offset = cursor.unpack(Struct(f"<{n_dims}QIQ"))
    stored = GGML_FILE_TYPES.get(kind)
    if stored is None:
        cursor.refuse(f"the tensor {name[:80]!r} has the unknown type {kind:,}", start)
    dtype, block, n_bytes = stored
    elements = prod(dims)
    if elements >= _MOST_ELEMENTS:
        cursor.refuse(f"the tensor {name[:80]!r} has a shape that overflows", start)
    row = dims[0] if dims else 1
    if row % block:
        cursor.refuse(
            f"rows of {row:,} in {name[:80]!r} are no multiple of {dtype}'s block of {block}", start
        )
    # ggml counts the innermost dimension first, torch last.
    return StoredTensor(name, dtype, tuple(reversed(dims)), elements // block * n_bytes), offset
