"""
The header of one safetensors file: eight bytes of length, a JSON object, and not a byte of data.

Format: https://huggingface.co/docs/safetensors/index#format; rules as in
https://github.com/huggingface/safetensors/blob/v0.6.2/safetensors/src/tensor.rs (validate, read_metadata).
"""

from __future__ import annotations

import re
from math import prod
from operator import sub
from typing import TYPE_CHECKING, Final, NamedTuple

from vram_planner.errors import HeaderError
from vram_planner.model_profiles.headers import LONGEST_TEXT, ByteSource, Header, StoredTensor, refuse
from vram_planner.model_profiles.json_header import JsonReader

if TYPE_CHECKING:
    from collections.abc import Mapping

# Bits of one element. Source: safetensors/src/tensor.rs, Dtype::bitsize.
DTYPE_BITS: Final[Mapping[str, int]] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
_NAMES: Final = {name.encode(): name for name in DTYPE_BITS}
# Upstream's bound is 100 MB; the largest single header published is below 1 MiB, and a 671B model in one file
# would have 11 MiB. Ours keeps the memory of a refusal small.
MOST_BYTES: Final = 32 << 20
MOST_TENSORS: Final = 150_000
_MOST_DIMS: Final = 16
_LONGEST_NAME: Final = 1024
_MOST_REMARKS: Final = 1_000
_PREFIX: Final = 8
# An entry as the library itself writes it; any other order of keys or escapes takes the slow way.
_ENTRY: Final = re.compile(
    rb'[ \t\n\r]*+"([^"\\\x00-\x1f]{1,1024})"[ \t\n\r]*+:[ \t\n\r]*+\{[ \t\n\r]*+"dtype"[ \t\n\r]*+:[ \t\n\r]*+'
    rb'"([A-Z0-9_]{1,16})"[ \t\n\r]*+,[ \t\n\r]*+"shape"[ \t\n\r]*+:[ \t\n\r]*+'
    rb"\[((?:0|[1-9][0-9]{0,18})(?:, ?(?:0|[1-9][0-9]{0,18})){0,15})?\][ \t\n\r]*+,[ \t\n\r]*+"
    rb'"data_offsets"[ \t\n\r]*+:[ \t\n\r]*+\[[ \t\n\r]*+(0|[1-9][0-9]{0,18})[ \t\n\r]*+,'
    rb"[ \t\n\r]*+(0|[1-9][0-9]{0,18})[ \t\n\r]*+\][ \t\n\r]*+\}[ \t\n\r]*+([,}])"
)
# An entry that the library writes, cut at its quotes: what stands at which place, its other places differ.
_FRAME: Final = {2: ":{", 3: "dtype", 4: ":", 6: ",", 7: "shape", 9: "data_offsets"}
_STEP: Final = 10
_SHAPE: Final = re.compile(r":\[((?:0|[1-9][0-9]{0,18})(?:,(?:0|[1-9][0-9]{0,18})){0,15})?\],")
_OFFSETS: Final = re.compile(r"(?::\[(?:0|[1-9][0-9]{0,18}),(?:0|[1-9][0-9]{0,18})\]\},)*+")
# Read at once below this many bytes: a shard has about 100 kB. Above, the text would take its memory twice.
_AT_ONCE: Final = 1 << 20
_REMARKS: Final = "__metadata__"


class _Span(NamedTuple):
    """Where a tensor's data lie behind the header, and where its entry stands in it."""

    begin: int
    end: int
    position: int


def read_safetensors(source: ByteSource) -> Header:
    """
    The header of one file. Raises HeaderError with the offset for whatever upstream refuses, and for names that
    come twice; reads the header's bytes and no others.
    """
    if source.size < _PREFIX:
        refuse(source, f"{source.size} bytes are too few for a safetensors file", source.size)
    # One read serves most files: a header of a shard has about 100 kB.
    first = source.read_at(0, min(source.size, source.block))
    if first.startswith(b"GGUF"):
        refuse(source, "it is a GGUF file by another name", 0, hint="give it a name that ends in .gguf")
    length = int.from_bytes(first[:_PREFIX], "little")
    if length > source.size - _PREFIX:
        refuse(source, f"its header should have {length:,} bytes, the file has {source.size:,}", 0)
    if length > MOST_BYTES:
        refuse(source, f"a header of {length:,} bytes is above the bound of {MOST_BYTES:,}", 0)
    raw = first[_PREFIX : _PREFIX + length]
    del first
    if len(raw) < length:
        raw += source.read_at(_PREFIX + len(raw), length - len(raw))
    if raw.count(b'"data_offsets"') > MOST_TENSORS:
        refuse(source, f"more than {MOST_TENSORS:,} tensors", _PREFIX)
    reader = JsonReader(raw, name=source.name, start=_PREFIX)
    data_bytes = source.size - _PREFIX - length
    known = read_at_once(raw, data_bytes) if length <= _AT_ONCE else None
    if known is None:
        tensors, spans, remarks = _read_object(reader)
        _check_spans(reader, tensors, spans, data_bytes)
        known = tuple(tensors.values()), remarks
    return Header(
        tensors=known[0],
        metadata=known[1],
        source=source.name,
        format="safetensors",
        file_bytes=source.size,
    )


def read_at_once(raw: bytes, data_bytes: int) -> tuple[tuple[StoredTensor, ...], dict[str, str]] | None:
    """
    The tensors and remarks of a header that is written as the library writes it, and right; None of any other.

    Three times as fast as entry by entry, which then tells what is wrong and where.
    """
    if not raw.isascii() or raw[:1] != b"{":
        return None
    start, remarks = 1, {}
    if raw.startswith(b'{"__metadata__":{'):
        reader = JsonReader(raw, name="")
        reader.pos = raw.index(b":") + 1
        try:
            remarks = _read_remarks(reader)
        except HeaderError:  # told again, with its offset, by the slow way
            return None
        start = reader.pos + 1
        if raw[reader.pos : start] != b",":
            return None
    tensors = _tensors_of(raw[start:].decode("ascii").rstrip(" "), data_bytes)
    return None if tensors is None else (tensors, remarks)


def _tensors_of(text: str, data_bytes: int) -> tuple[StoredTensor, ...] | None:
    """The tensors of entries up to the end of the header that are right, each and together; else None."""
    # The last entry becomes like the others: "},".
    parts = f"{text[:-1]},".split('"')
    count, rest = divmod(len(parts) - 1, _STEP)
    if not count or rest or parts[0] or text[-1] != "}" or "\\" in text:
        return None
    if any(parts[place::_STEP].count(word) != count for place, word in _FRAME.items()):
        return None
    names = parts[1::_STEP]
    plain = "".join(names).isprintable() and all(names) and max(map(len, names)) <= _LONGEST_NAME
    if not plain or len(set(names)) < count or _REMARKS in names:
        return None
    sizes = _sizes("".join(parts[_STEP::_STEP]), data_bytes)
    return None if sizes is None else _checked(names, parts[5::_STEP], parts[8::_STEP], sizes)


def _sizes(offsets: str, data_bytes: int) -> list[int] | None:
    """Bytes of each tensor, if together they fill the data without gap or overlap."""
    if not _OFFSETS.fullmatch(offsets):
        return None
    numbers = list(map(int, offsets[2:-3].replace("]},:[", ",").split(",")))
    begins, ends = numbers[0::2], numbers[1::2]
    if ends[-1] != data_bytes or begins[0] or begins[1:] != ends[:-1]:
        spans = sorted(zip(begins, ends, strict=True))
        if [begin for begin, _ in spans] != [0, *(end for _, end in spans[:-1])] or spans[-1][
            1
        ] != data_bytes:
            return None
    return list(map(sub, ends, begins))


def _checked(
    names: list[str], dtypes: list[str], shapes: list[str], sizes: list[int]
) -> tuple[StoredTensor, ...] | None:
    """A tensor for each name, if every shape takes its bytes."""
    known: dict[tuple[str, str, int], tuple[str, tuple[int, ...], int]] = {}
    kinds = list(zip(dtypes, shapes, sizes, strict=True))
    for kind in set(kinds):
        shape, bits = _SHAPE.fullmatch(kind[1]), DTYPE_BITS.get(kind[0])
        if shape is None or bits is None:
            return None
        dims = tuple(map(int, shape[1].split(","))) if shape[1] else ()
        if prod(dims) * bits != kind[2] * 8:
            return None
        known[kind] = (_NAMES[kind[0].encode()], dims, kind[2])
    return tuple(map(StoredTensor, names, *zip(*map(known.__getitem__, kinds), strict=True)))


def _read_object(reader: JsonReader) -> tuple[dict[str, StoredTensor], list[_Span], dict[str, str]]:
    """The tensors by name, where their data and entries lie, and the remarks."""
    if reader.data[:1] != b"{":
        reader.refuse("the header does not start with '{'")
    tensors: dict[str, StoredTensor] = {}
    spans: list[_Span] = []
    remarks: dict[str, str] | None = None
    reader.pos = 1
    last = reader.peek() == b"}"
    reader.pos += last
    match, data = _ENTRY.match, reader.data
    shapes: dict[bytes | None, tuple[int, ...]] = {}
    while not last:
        position = reader.pos
        found = match(data, position)
        if found is not None:
            raw_name, raw_dtype, raw_shape, begin, end, after = found.groups()
            name, dtype = raw_name.decode(), _NAMES.get(raw_dtype) or raw_dtype.decode()
            shape = shapes.get(raw_shape)  # a handful of shapes serve thousands of experts
            if shape is None:
                shape = shapes[raw_shape] = tuple(map(int, raw_shape.split(b","))) if raw_shape else ()
            span = _Span(int(begin), int(end), position)
            reader.pos = found.end()
            last = after == b"}"
        else:
            reader.peek()
            position = reader.pos
            name = reader.string(_LONGEST_NAME)
            reader.expect(b":")
            if name == _REMARKS:
                if remarks is not None:
                    reader.refuse(f"the key {_REMARKS!r} comes twice", position)
                remarks = _read_remarks(reader)
                last = reader.after_item()
                continue
            dtype, shape, span = _read_entry(reader, name, position)
            last = reader.after_item()
        if name in tensors:
            reader.refuse(f"the tensor {name[:80]!r} comes twice", position)
        if name == _REMARKS:
            reader.refuse(f"{_REMARKS} holds something else than strings", position)
        tensors[name] = _tensor(reader, name, dtype, shape, span)
        spans.append(span)
    reader.end()
    return tensors, spans, remarks or {}


def _read_remarks(reader: JsonReader) -> dict[str, str]:
    """Strings by name; those that are too long to be a figure are passed over."""
    found: dict[str, str] = {}
    for key in reader.fields():
        if reader.peek() != b'"':
            reader.refuse("__metadata__ holds something else than strings")
        start = reader.pos
        reader.skip()
        if reader.pos - start <= LONGEST_TEXT:
            reader.pos = start
            found[key] = reader.string()
        if len(found) > _MOST_REMARKS:
            reader.refuse(f"more than {_MOST_REMARKS:,} entries in __metadata__")
    return found


def _read_entry(reader: JsonReader, name: str, position: int) -> tuple[str, tuple[int, ...], _Span]:
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    offsets: tuple[int, ...] = ()
    for key in reader.fields():
        if key == "dtype":
            dtype = reader.string(64)
        elif key == "shape":
            shape = reader.integers(_MOST_DIMS)
        elif key == "data_offsets":
            offsets = reader.integers(2)
        else:
            reader.refuse(f"the tensor {name[:80]!r} has a strange key {key[:40]!r}")
    if dtype is None or shape is None or len(offsets) != 2:  # noqa: PLR2004  begin and end
        reader.refuse(f"the tensor {name[:80]!r} lacks its dtype, shape or data_offsets")
    return dtype, shape, _Span(*offsets, position)


def _tensor(reader: JsonReader, name: str, dtype: str, shape: tuple[int, ...], span: _Span) -> StoredTensor:
    bits = DTYPE_BITS.get(dtype)
    if bits is None:
        reader.refuse(f"the tensor {name[:80]!r} has the unknown dtype {dtype[:20]!r}", span.position)
    n_bytes = span.end - span.begin
    if prod(shape) * bits != n_bytes * 8:
        reader.refuse(
            f"the tensor {name[:80]!r} of {dtype} {list(shape)!s:.100} does not take {n_bytes:,} bytes",
            span.position,
        )
    return StoredTensor(name, dtype, shape, n_bytes)


def _check_spans(
    reader: JsonReader, tensors: dict[str, StoredTensor], spans: list[_Span], data_bytes: int
) -> None:
    """Data follow each other without gap or overlap, and fill the file. Source: Metadata::validate."""
    reached = 0
    for span in sorted(spans):
        if span.begin != reached:
            kind = "overlap those before them" if span.begin < reached else "leave a gap before them"
            reader.refuse(f"a tensor's data (from {span.begin:,}) {kind}", span.position)
        reached = span.end
    if reached != data_bytes:
        reader.refuse(
            f"{len(tensors):,} tensors take {reached:,} bytes, {data_bytes:,} follow the header",
            len(reader.data),
        )
