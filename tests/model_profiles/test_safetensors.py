"""Reading safetensors headers. Rules: https://huggingface.co/docs/safetensors/index#format."""

from __future__ import annotations

import json
import os
import struct
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.errors import HeaderError
from vram_planner.model_profiles.checkpoint_index import read_index
from vram_planner.model_profiles.headers import BytesSource, LocalFile
from vram_planner.model_profiles.safetensors import (
    DTYPE_BITS,
    MOST_BYTES,
    MOST_TENSORS,
    read_at_once,
    read_safetensors,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vram_planner.model_profiles.headers import Header

HANG_S = 10  # only a hang is caught here; benchmarks/headers.py times the readers


def read(head: bytes | dict[str, Any], data: int = 0, length: int | None = None) -> Header:
    """Read a header given as text or as an object, in front of so many bytes of data."""
    raw = json.dumps(head).encode() if isinstance(head, dict) else head
    whole = struct.pack("<Q", len(raw) if length is None else length) + raw
    return read_safetensors(BytesSource(whole, size=len(whole) + data))


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_bytes_and_dtypes_are_exact() -> None:
    header = read({"a": entry("BF16", [2, 3], 0, 12), "b": entry("F8_E4M3", [5], 12, 17)}, 17)

    assert header.tensor_bytes == 17
    assert header.bytes_by_dtype == {"BF16": 12, "F8_E4M3": 5}
    assert [tensor.shape for tensor in header.tensors] == [(2, 3), (5,)]


def test_four_bits_take_half_a_byte() -> None:
    assert read({"a": entry("F4", [3, 2], 0, 3)}, 3).tensor_bytes == 3


def test_metadata_and_odd_spacing_are_read() -> None:
    head = b'{ "__metadata__" : {"format":"pt"} ,\n "a\\u00e9" : {"shape": [ 1 ], "data_offsets":[0, 4],"dtype":"F32"} }  '

    header = read(head, 4)
    assert header.metadata == {"format": "pt"}
    assert [tensor.name for tensor in header.tensors] == ["aé"]


def test_long_remarks_are_passed_over() -> None:
    assert read({"__metadata__": {"a": "x" * 10_000, "b": "y"}}).metadata == {"b": "y"}


def test_scalars_and_empty_tensors() -> None:
    header = read({"a": entry("F32", [], 0, 4), "b": entry("F32", [0, 7], 4, 4)}, 4)

    assert [tensor.n_bytes for tensor in header.tensors] == [4, 0]


@pytest.mark.parametrize(
    ("head", "data", "what"),
    [
        (b'{"a":1}', 0, "expected"),
        (b"", 0, "does not start"),
        (b" {}", 0, "does not start"),
        (b"[]", 0, "does not start"),
        (b"{", 0, "string was expected"),
        (b"{}x", 0, "more follows"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},}', 4, "string was expected"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}', 4, "expected"),
        (b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', 4, "not negative"),
        (b'{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', 4, "not negative"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}', 4, "not negative"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', 4, "does not take"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}', 4, "lacks"),
        (b'{"a":{"dtype":"F32","shape":[1]}}', 4, "lacks"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}', 4, "strange key"),
        (b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4, "twice"),
        (b'{"a":{"dtype":"Q4_K","shape":[1],"data_offsets":[0,4]}}', 4, "unknown dtype"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', 4, "does not take"),
        (b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}', 0, "does not take"),
        (b'{"a":{"dtype":"F32","shape":[99999999999999999999999],"data_offsets":[0,0]}}', 0, "not negative"),
        (b'{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}', 1, "does not take"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', 8, "gap"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 8, "follow the header"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 2, "follow the header"),
        (
            b'{"__metadata__":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            4,
            "something else than strings",
        ),
        (b'{"__metadata__":{"a":1}}', 0, "something else than strings"),
        (b'{"__metadata__":{},"__metadata__":{}}', 0, "twice"),
        (b'{"\xff":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4, "UTF-8"),
        (b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4, "no JSON"),
        (b'{"a\x01":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4, "string was expected"),
        (b'{"' + b"x" * 2000 + b'":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4, "2,000 bytes"),
        (b'{"a":{"dtype":"F32","shape":' + b"[" * 1000 + b"}}", 4, "not negative"),
        (b'{"__metadata__":{"a":' + b'{"a":' * 1000, 0, "something else"),
    ],
)
def test_what_is_wrong_is_refused_with_its_offset(head: bytes, data: int, what: str) -> None:
    with pytest.raises(HeaderError, match=what) as error:
        read(head, data)

    assert error.value.offset is not None
    assert error.value.hint
    assert len(str(error.value)) < 400


def test_overlapping_tensors_are_refused() -> None:
    with pytest.raises(HeaderError, match="overlap"):
        read({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, 12)


def test_a_name_that_comes_twice_is_refused_at_its_second_place() -> None:
    one = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'

    with pytest.raises(HeaderError, match="twice") as error:
        read(b"{" + one + b"," + one + b"}", 4)
    assert error.value.offset == 8 + 1 + len(one) + 1


@pytest.mark.parametrize("length", [10**18, (1 << 64) - 1, MOST_BYTES + 1, 100])
def test_a_length_beyond_the_file_or_the_bound_is_refused(length: int) -> None:
    with pytest.raises(HeaderError) as error:
        read(b"{}", 1 << 40 if length == MOST_BYTES + 1 else 50, length)

    assert error.value.offset == 0


@pytest.mark.parametrize("size", range(8))
def test_a_file_of_a_few_bytes_is_refused(size: int) -> None:
    with pytest.raises(HeaderError, match="too few"):
        read_safetensors(BytesSource(bytes(size)))


HOSTILE = {
    "lists": b'{"a":{"shape":' + b"[[]," * (1 << 20),
    "objects": b'{"a":' + b'{"a":' * (1 << 20),
    "one long string": b'{"' + b"\\n" * (1 << 23),
    "remarks": b'{"__metadata__":{' + b",".join(b'"%d":"x"' % n for n in range(400_000)) + b"}}",
    "spaces": b"{" + b" " * (30 << 20),
    "numbers": b'{"a":{"shape":[' + b"1," * (1 << 22),
    "a long number": b'{"a":{"shape":[' + b"1" * (1 << 24),
    "tensors": b"{"
    + b",".join(b'"%d":{"dtype":"U8","shape":[],"data_offsets":[0,1]}' % n for n in range(MOST_TENSORS + 2)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_header_is_refused_in_a_second_and_in_little_memory(kind: str) -> None:
    data = HOSTILE[kind]
    source = BytesSource(struct.pack("<Q", len(data)) + data, size=1 << 40)
    start = time.process_time()
    with pytest.raises(HeaderError):
        read_safetensors(source)

    assert time.process_time() - start < HANG_S
    tracemalloc.start()
    with pytest.raises(HeaderError):
        read_safetensors(source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 80 << 20


def test_pipes_devices_and_directories_are_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "model.safetensors"
    os.mkfifo(pipe)

    for path in (pipe, tmp_path):
        with pytest.raises(HeaderError, match=r"regular file|cannot open"):
            LocalFile(path)


def test_the_data_are_never_read(tmp_path: Path, write_safetensors: Callable[..., Path]) -> None:
    """A sparse terabyte."""
    path = write_safetensors(tmp_path / "a.safetensors", {"a": ("U8", (1 << 20, 1 << 20))})
    with LocalFile(path) as source:
        assert read_safetensors(source).tensor_bytes == 1 << 40


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda name: name != "__metadata__"
)


@given(
    st.dictionaries(
        NAMES, st.tuples(st.sampled_from(sorted(DTYPE_BITS)), st.lists(st.integers(0, 9), max_size=4))
    )
)
def test_whatever_is_written_is_read(tensors: dict[str, tuple[str, list[int]]]) -> None:
    """Shapes times eight, so that the formats of four and six bits fill their bytes."""
    head, offset = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = DTYPE_BITS[dtype]
        for side in (*shape, 8):
            size *= side
        head[name] = entry(dtype, [*shape, 8], offset, offset + size // 8)
        offset += size // 8

    header = read(head, offset)
    assert {tensor.name: list(tensor.shape) for tensor in header.tensors} == {
        n: head[n]["shape"] for n in head
    }
    assert sum(tensor.n_bytes for tensor in header.tensors) == offset


@given(st.binary(max_size=300))
def test_no_bytes_give_a_traceback(data: bytes) -> None:
    for raw in (data, struct.pack("<Q", len(data)) + data):
        with pytest.raises(HeaderError):
            read_safetensors(BytesSource(raw + b"\0"))


def index(weight_map: object, **metadata: object) -> bytes:
    return json.dumps({"metadata": metadata, "weight_map": weight_map}).encode()


SHARD: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "b": entry("F32", [2, 3], 8, 32),
    "a.weight": entry("BF16", [4], 0, 8),
    "c": entry("F4", [], 32, 32) | {"shape": [0]},
}


@given(st.integers(0, 400), st.binary(min_size=0, max_size=3), st.integers(0, 2))
def test_a_header_read_at_once_says_what_it_says_entry_by_entry(place: int, put: bytes, dropped: int) -> None:
    """A shard as the library writes it, with a few bytes put in, changed or dropped anywhere."""
    raw = json.dumps(SHARD, separators=(",", ":")).encode()
    place %= len(raw)
    raw = raw[:place] + put + raw[place + dropped :]
    found = read_at_once(raw, 32)

    if found is not None:
        # Beyond that size a header is always read entry by entry.
        spaces = b" " * (1 << 20)
        slowly = read(raw + spaces, 32)
        assert (slowly.tensors, slowly.metadata) == found


def test_a_header_as_the_library_writes_it_is_read_at_once() -> None:
    assert read_at_once(json.dumps(SHARD, separators=(",", ":")).encode() + b"   ", 32) is not None
    assert read_at_once(b"{}", 0) is None


@given(st.integers(0, 400), st.binary(min_size=0, max_size=3), st.integers(0, 2), st.sampled_from([None, 2]))
def test_an_index_in_pieces_says_what_it_says_entry_by_entry(
    place: int, put: bytes, dropped: int, indent: int | None
) -> None:
    """As transformers writes it, or in one line; with a few bytes put in, changed or dropped anywhere."""
    names = {f"t{number}": f"model-{number % 3}.safetensors" for number in range(6)}
    raw = json.dumps({"metadata": {"total_size": 7}, "weight_map": names}, indent=indent).encode()
    place %= len(raw)
    raw = raw[:place] + put + raw[place + dropped :]
    answers = []
    for piece in (1 << 18, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vram_planner.model_profiles.checkpoint_index._PIECE", piece)
            try:
                answers.append(str(read_index(raw, name="index")))
            except HeaderError as error:
                answers.append(f"{error} {error.offset}")
    assert answers[0] == answers[1]


def test_an_index_says_files_and_total() -> None:
    found = read_index(
        index({"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-1.safetensors"}, total_size=7),
        name="x",
    )

    assert found.files == ("m-1.safetensors", "m-2.safetensors")
    assert found.total_bytes == 7
    assert found.weight_map["c"] == "m-1.safetensors"


@pytest.mark.parametrize(
    ("total", "number"), [("1.5e3", 1500), ("1500.0", 1500), ("-1", None), ('"x"', None), ("1e999", None)]
)
def test_odd_totals(total: str, number: int | None) -> None:
    assert (
        read_index(b'{"metadata":{"total_size":%s},"weight_map":{}}' % total.encode(), name="x").total_bytes
        == number
    )


@pytest.mark.parametrize(
    "file",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        "a/b.safetensors",
        "a\\b.safetensors",
        "C:model.safetensors",
        "..safetensors/../x.safetensors",
        "model.pt",
        "",
        ".safetensors",
        "a\0.safetensors",
        "a" * 300 + ".safetensors",
        "~/a.safetensors",
        "a%2f..%2fb.safetensors",
    ],
)
def test_an_index_may_name_only_weight_files_beside_it(file: str) -> None:
    with pytest.raises(HeaderError) as error:
        read_index(index({"a": file}), name="model.safetensors.index.json")

    assert error.value.offset is not None


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{}", b'{"weight_map":[]}', b'{"weight_map":{"a":1}}', b'{"weight_map":{"a":"b.bin","a":"b.bin"}}',
     b'{"weight_map":{}}{}', b'{"metadata":' + b'{"a":' * 100, b'{"weight_map":{},"weight_map":{}}', b"\xff"],
)  # fmt: skip
def test_a_damaged_index_is_refused(raw: bytes) -> None:
    with pytest.raises(HeaderError):
        read_index(raw, name="x")
