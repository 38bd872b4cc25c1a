"""
The index of a checkpoint in several files: which tensor lies in which, and the bytes of all.

`model.safetensors.index.json`, and `pytorch_model.bin.index.json`, of which we read nothing else: a `.bin` is a
pickle, and a pickle is a program. Source: transformers, modeling_utils.py (save_pretrained writes both).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from vram_planner.model_profiles.json_header import JsonReader

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_BYTES: Final = 48 << 20
MOST_TENSORS: Final = 400_000
MOST_FILES: Final = 4_096
_ENTRY: Final = re.compile(
    rb'[ \t\n\r]*+"([^"\\\x00-\x1f]{1,1024})"[ \t\n\r]*+:[ \t\n\r]*+"([^"\\\x00-\x1f]{1,255})"[ \t\n\r]*+([,}])'
)
# An index as transformers writes it is read in pieces of about so many bytes; any other, entry by entry.
_PIECE: Final = 1 << 18
_SPACES: Final = " \t\n\r"
_LONGEST: Final = (1024, 255)
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][\w.\-+= ]{0,254}", re.ASCII)
_SUFFIXES: Final = (".safetensors", ".bin")


@dataclass(frozen=True, slots=True)
class CheckpointIndex:
    """`files` are the checkpoint's files in the order of first mention; `total_bytes` is None where not stated."""

    weight_map: Mapping[str, str]
    files: tuple[str, ...]
    total_bytes: int | None


def read_index(raw: bytes, *, name: str) -> CheckpointIndex:
    """
    The index in the bytes of such a file. Raises HeaderError with the offset.

    Every file that it names must be a plain name beside it: no path, no '..'.
    """
    reader = JsonReader(raw, name=name)
    if len(raw) > MOST_BYTES:
        reader.refuse(f"an index of {len(raw):,} bytes is above the bound of {MOST_BYTES:,}", 0)
    weight_map: dict[str, str] | None = None
    files: dict[str, str] = {}
    total = None
    for key in reader.fields():
        if key == "weight_map":
            weight_map = _read_weight_map(reader, files)
        elif key == "metadata":
            total = _read_total(reader)
        else:
            reader.skip()
    reader.end()
    if weight_map is None:
        reader.refuse("the index has no weight_map", 0)
    return CheckpointIndex(weight_map, tuple(files), total)


def _read_total(reader: JsonReader) -> int | None:
    """`total_size`, which some tools write as 1.5e10."""
    total = None
    for key in reader.fields():
        start = reader.pos
        if key == "total_size" and reader.peek().isdigit():
            start = reader.pos
            reader.skip()
            text = reader.data[start : reader.pos].strip()
            if len(text) < 32:  # noqa: PLR2004  no size has more digits
                number = float(text)
                total = int(text) if text.isdigit() else int(number) if number < 1 << 60 else None
        else:
            reader.skip()
    return total


def _read_weight_map(reader: JsonReader, files: dict[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    reader.expect(b"{")
    last = reader.peek() == b"}"
    reader.pos += last
    match, data = _ENTRY.match, reader.data
    known: dict[bytes, str] = {}
    if not last:
        _read_pieces(reader, found, files)
        known = {file.encode(): file for file in files}
    while not last:
        position = reader.pos
        entry = match(data, position)
        if entry is not None:
            raw_name, raw_file, after = entry.groups()
            name = raw_name.decode()
            reader.pos = entry.end()
            last = after == b"}"
        else:
            name = reader.string(1024)
            reader.expect(b":")
            raw_file = reader.string(255).encode()
            last = reader.after_item()
        file = known.get(raw_file)
        if file is None:
            file = known[raw_file] = _checked_file(reader, raw_file.decode(), position, len(known))
            files[file] = file
        if name in found:
            reader.refuse(f"the tensor {name[:80]!r} comes twice", position)
        found[name] = file
        if len(found) > MOST_TENSORS:
            reader.refuse(f"more than {MOST_TENSORS:,} tensors", position)
    return found


def _read_pieces(reader: JsonReader, found: dict[str, str], files: dict[str, str]) -> None:
    """As many entries as are written plainly; whatever is wrong, or written in another way, is left to read singly."""
    while True:
        piece = _read_piece(reader.data, reader.pos)
        if piece is None or not found.keys().isdisjoint(piece.names):
            return
        new = {file: file for file in piece.files if file not in files}
        too_many = len(files) + len(new) > MOST_FILES or len(found) + len(piece.names) > MOST_TENSORS
        if too_many or not all(map(_is_file, new)):
            return
        files.update(new)
        found.update(zip(piece.names, map(files.__getitem__, piece.files), strict=True))
        reader.pos = piece.end


class _Piece(NamedTuple):
    """Names of tensors, the file of each, and where the next entry begins."""

    names: list[str]
    files: list[str]
    end: int


def _read_piece(data: bytes, start: int) -> _Piece | None:
    """
    Entries from a position on, each followed by a comma; None where one is escaped, or no plain text.

    Several times as fast as entry by entry: the quotes alone are looked for.
    """
    stop = data.rfind(b'",', start, start + _PIECE) + 2
    if stop <= start + 1:
        return None
    lead, *parts, tail = data[start:stop].decode("latin-1").split('"')
    names, files = parts[0::4], parts[2::4]
    between = set(parts[1::4]), {tail, *(comma.rstrip(_SPACES) for comma in set(parts[3::4]))}
    if not names or len(names) != len(files) or lead.strip(_SPACES) or between[1] != {","}:
        return None
    if any(colon.strip(_SPACES) != ":" for colon in between[0]):
        return None
    text = "".join(names) + "".join(set(files))
    plain = text.isascii() and text.isprintable() and "\\" not in text
    if (
        not plain
        or not all(names)
        or max(map(len, names)) > _LONGEST[0]
        or max(map(len, files)) > _LONGEST[1]
    ):
        return None
    return _Piece(names, files, stop) if len(set(names)) == len(names) else None


def _is_file(file: str) -> bool:
    return bool(_FILE_NAME.fullmatch(file)) and ".." not in file and file.endswith(_SUFFIXES)


def _checked_file(reader: JsonReader, file: str, position: int, known: int) -> str:
    if not _is_file(file):
        reader.refuse(f"it names the file {file[:80]!r}, which is no weight file beside it", position)
    if known >= MOST_FILES:
        reader.refuse(f"more than {MOST_FILES:,} files", position)
    return file
