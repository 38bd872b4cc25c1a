"""Reading GGUF headers. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md."""

from __future__ import annotations

import struct
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.architecture.gguf import GGML_TYPES
from vram_planner.architecture.storage import Blocks, Plain
from vram_planner.architecture.stored_header import GgufFile
from vram_planner.errors import HeaderError, PlannerError
from vram_planner.model_profiles.gguf import GGML_FILE_TYPES, MOST_STRINGS, MOST_TENSORS, Skipped, read_gguf
from vram_planner.model_profiles.gguf_architecture import gguf_config, gguf_profile
from vram_planner.model_profiles.gguf_facts import GgufFacts
from vram_planner.model_profiles.headers import BytesSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.model_profiles.headers import Header

HANG_S = 10  # only a hang is caught here; benchmarks/headers.py times the readers
BIG = 1 << 40
Tiny = tuple[dict[str, Any], dict[str, tuple[int, ...]]]


def read(raw: bytes, size: int = BIG) -> Header:
    return read_gguf(BytesSource(raw, size=max(size, len(raw))))


def test_types_agree_with_those_that_plans_use() -> None:
    for name, elements, n_bytes in GGML_FILE_TYPES.values():
        stored = GGML_TYPES.get(name)
        if isinstance(stored, Blocks):
            assert (stored.elements, stored.block_bytes) == (elements, n_bytes)
        elif isinstance(stored, Plain):
            assert stored.element_bytes == n_bytes


def test_values_of_every_kind_are_read(gguf_header: Callable[..., bytes]) -> None:
    metadata = {
        "general.architecture": "llama",
        "a.flag": True,
        "a.number": 7,
        "a.share": 0.5,
        "a.list": [1, 2, 3],
        "a.flags": [True, False],
        "a.words": ["x", "yy"],
        "a.template": "x" * 5000,
        "a.long": list(range(5000)),
    }

    found = read(gguf_header(metadata, {})).metadata
    assert found == {
        **metadata,
        "a.list": (1, 2, 3),
        "a.flags": (True, False),
        "a.words": Skipped(2),
        "a.template": None,
        "a.long": Skipped(5000),
    }


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_are_read(version: int, gguf_header: Callable[..., bytes], tiny_gguf: Tiny) -> None:
    model, _ = gguf_profile(read(gguf_header(*tiny_gguf, version=version)))

    assert model.parameters == 3 * 64 * 2 + 64 * 3 + 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128


def test_an_alignment_moves_the_data(gguf_header: Callable[..., bytes]) -> None:
    raw = gguf_header({"general.alignment": 64}, {"a": (8,), "b": (8,)})

    with pytest.raises(HeaderError, match="aligned to 64"):
        read(raw)


def test_a_word_of_the_vocabulary_takes_a_microsecond(gguf_header: Callable[..., bytes]) -> None:
    words = [f"token{number}" for number in range(152_000)]
    raw = gguf_header({"tokenizer.ggml.tokens": words, "tokenizer.ggml.scores": [0] * 152_000}, {})
    source = BytesSource(raw)
    tracemalloc.start()
    assert read_gguf(source).metadata["tokenizer.ggml.tokens"] == Skipped(152_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * len(raw)

    start = time.process_time()
    read_gguf(source)
    assert time.process_time() - start < HANG_S


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def head(n_tensors: int = 0, n_keys: int = 0, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, n_tensors, n_keys)


def one_key(kind: int, value: bytes, key: bytes = b"a.b") -> bytes:
    return head(n_keys=1) + text(key) + struct.pack("<I", kind) + value


def one_tensor(
    dims: list[int], kind: int = 0, offset: int = 0, name: bytes = b"a", n_dims: int | None = None
) -> bytes:
    count = len(dims) if n_dims is None else n_dims
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", count, *dims, kind, offset)


def array(kind: int, count: int) -> bytes:
    return struct.pack("<IQ", kind, count)


WRONG = {
    "magic": (head(magic=b"GGML"), "no GGUF file"),
    "an old format": (head(magic=b"tjgg"), "old GGML"),
    "version 1": (head(version=1), "version 1"),
    "version 4": (head(version=4), "version 4"),
    "big-endian": (head(version=3 << 24), "big-endian"),
    "too many tensors": (head(n_tensors=MOST_TENSORS + 1), "tensors, the bound"),
    "too many keys": (head(n_keys=1 << 60), "keys, the bound"),
    "an empty key": (one_key(8, text(b""), key=b""), "a key of 0 bytes"),
    "a long key": (head(n_keys=1) + struct.pack("<Q", 1 << 40), "a key of"),
    "a key of strange letters": (one_key(8, text(b""), key=b"a b"), "the key"),
    "a key that is no UTF-8": (one_key(8, text(b""), key=b"\xff"), "no UTF-8"),
    "a key twice": (head(n_keys=2) + 2 * (text(b"a") + struct.pack("<IB", 0, 1)), "comes twice"),
    "a value of no type": (one_key(13, b""), "unknown type 13"),
    "a flag of 2": (one_key(7, b"\2"), "a flag of 2"),
    "a list with a flag of 2": (one_key(9, array(7, 2) + b"\1\2"), "a flag of 2"),
    "text that is no UTF-8": (one_key(8, text(b"a\xff")), "no UTF-8"),
    "a long text": (one_key(8, struct.pack("<Q", 1 << 39)), "a string of"),
    "a text beyond the file": (one_key(8, struct.pack("<Q", (1 << 64) - 1)), "a string of"),
    "a billion strings": (one_key(9, array(8, 10**9)), "strings in arrays"),
    "a billion billion numbers": (one_key(9, array(10, 10**18)), "cut off"),
    "an array of arrays": (one_key(9, array(9, 1)), "array of arrays"),
    "an array of no type": (one_key(9, array(99, 1)), "unknown type 99"),
    "an alignment of 3": (one_key(4, struct.pack("<I", 3), key=b"general.alignment"), "alignment"),
    "an alignment of 0": (one_key(4, struct.pack("<I", 0), key=b"general.alignment"), "alignment"),
    "an alignment that is a text": (one_key(8, text(b"32"), key=b"general.alignment"), "alignment"),
    "five dimensions": (head(1) + one_tensor([1] * 5), "5 dimensions"),
    "a billion dimensions": (head(1) + one_tensor([], n_dims=10**9), "dimensions"),
    "a shape that overflows": (head(1) + one_tensor([1 << 62, 4]), "overflows"),
    "an unknown type": (head(1) + one_tensor([32], kind=4), "unknown type 4"),
    "half a block": (head(1) + one_tensor([48], kind=2), "no multiple"),
    "data beyond the file": (head(1) + one_tensor([32], offset=1 << 62), "data end"),
    "data larger than the file": (head(1) + one_tensor([1 << 50]), "data end"),
    "data not aligned": (head(1) + one_tensor([32], offset=8), "not aligned"),
    "overlapping data": (head(2) + one_tensor([32]) + one_tensor([32], offset=64, name=b"b"), "overlap"),
    "a tensor twice": (head(2) + one_tensor([32]) + one_tensor([32], offset=128), "comes twice"),
    "a tensor without a name": (head(1) + one_tensor([32], name=b""), "name of 0"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_refused_with_its_offset(kind: str) -> None:
    raw, what = WRONG[kind]
    start = time.process_time()

    with pytest.raises(HeaderError, match=what) as error:
        read_gguf(Zeros(raw))
    assert error.value.offset is not None
    assert error.value.hint
    assert time.process_time() - start < HANG_S


class Zeros:
    """Bytes, and behind them a sparse terabyte of zeros: lengths of 0 for ever."""

    name, size, block = "hostile.gguf", BIG, 1 << 18

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read_at(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length].ljust(length, b"\0")


def test_as_many_empty_strings_as_are_allowed_take_less_than_a_second() -> None:
    start = time.process_time()

    with pytest.raises(HeaderError, match="a key of 0"):
        read_gguf(Zeros(head(n_keys=2) + text(b"a") + struct.pack("<I", 9) + array(8, MOST_STRINGS)))
    assert time.process_time() - start < HANG_S


def test_as_many_tensors_as_are_allowed_are_refused_in_little_memory() -> None:
    infos = b"".join(one_tensor([1], offset=32 * n, name=b"%d" % n) for n in range(MOST_TENSORS - 1))
    source = Zeros(head(MOST_TENSORS) + infos)
    start = time.process_time()
    with pytest.raises(HeaderError, match="name of 0"):
        read_gguf(source)
    assert time.process_time() - start < HANG_S

    tracemalloc.start()
    with pytest.raises(HeaderError, match="name of 0"):
        read_gguf(source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 80 << 20


def test_a_file_cut_off_anywhere_is_refused(gguf_header: Callable[..., bytes], tiny_gguf: Tiny) -> None:
    raw = gguf_header(*tiny_gguf)

    for length in range(len(raw)):
        with pytest.raises(HeaderError):
            read_gguf(BytesSource(raw[:length]))


@given(st.binary(max_size=400))
def test_no_bytes_give_a_traceback(data: bytes) -> None:
    for raw in (data, b"GGUF\3\0\0\0" + data):
        with pytest.raises(PlannerError):
            gguf_profile(read_gguf(Zeros(raw)))


REQUIRED = [
    "general.architecture",
    "llama.block_count",
    "llama.embedding_length",
    "llama.attention.head_count",
]


@pytest.mark.parametrize("key", REQUIRED)
def test_a_figure_that_is_missing_is_named(
    key: str, gguf_header: Callable[..., bytes], tiny_gguf: Tiny
) -> None:
    metadata, shapes = tiny_gguf
    del metadata[key]

    with pytest.raises(HeaderError, match=key):
        gguf_profile(read(gguf_header(metadata, shapes)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.block_count", 10**9),
        ("llama.block_count", 0),
        ("llama.block_count", "x"),
        ("llama.attention.head_count", [4, 8]),
        ("llama.attention.head_count", 0),
        ("llama.attention.head_count_kv", 3),
        ("llama.attention.key_length", 10**9),
        ("llama.nextn_predict_layers", 5),
        ("llama.feed_forward_length", True),
        ("general.architecture", "a" * 100),
        ("general.architecture", 3),
    ],
)
def test_absurd_figures_are_refused(
    key: str, value: object, gguf_header: Callable[..., bytes], tiny_gguf: Tiny
) -> None:
    metadata, shapes = tiny_gguf

    with pytest.raises(HeaderError) as error:
        gguf_profile(read(gguf_header(metadata | {key: value}, shapes)))
    assert error.value.hint


def test_equal_figures_of_all_layers_count_as_one(gguf_header: Callable[..., bytes], tiny_gguf: Tiny) -> None:
    metadata, shapes = tiny_gguf
    raw = gguf_header(metadata | {"llama.attention.head_count_kv": [2]}, shapes)

    assert gguf_config(GgufFacts(read(raw)))["num_key_value_heads"] == 2


def test_a_vocabulary_alone_is_no_model(gguf_header: Callable[..., bytes], tiny_gguf: Tiny) -> None:
    with pytest.raises(HeaderError, match="only a vocabulary"):
        gguf_profile(read(gguf_header(tiny_gguf[0], {})))


def test_tensors_that_disagree_with_the_metadata_are_told(
    gguf_header: Callable[..., bytes], tiny_gguf: Tiny
) -> None:
    metadata, shapes = tiny_gguf
    del shapes["blk.0.ffn_gate.weight"]
    shapes |= {
        "blk.0.attn_q.weight": (32, 64),
        "blk.0.strange.weight": (64,),
        "blk.1.nextn.eh_proj.weight": (64,),
    }
    header = read(gguf_header(metadata, shapes))
    model, _ = gguf_profile(header)

    missing, other, unknown, draft = model.notes
    assert "no tensor for layer 0 gate_proj" in missing
    assert "layer 0 q_proj 2,048 instead of 4,096" in other
    assert "256 B" in unknown
    assert "blk.0.strange.weight" in unknown
    assert "256 B of draft" in draft
    assert model.weights_bytes() == (header.tensor_bytes or 0) - 256


def test_a_fused_tensor_is_shared_by_its_parts(gguf_header: Callable[..., bytes], tiny_gguf: Tiny) -> None:
    metadata, shapes = tiny_gguf
    for name in ("q", "k", "v"):
        del shapes[f"blk.0.attn_{name}.weight"]
    shapes["blk.0.attn_qkv.weight"] = (128, 64)
    model, _ = gguf_profile(read(gguf_header(metadata, shapes)))

    assert model.notes == ()
    assert isinstance(model.precision, GgufFile)
    sizes = {name: n for (_, name), n in model.precision.bytes_of.items()}
    assert (sizes["q_proj"], sizes["k_proj"], sizes["v_proj"]) == (64 * 64 * 4, 32 * 64 * 4, 32 * 64 * 4)
