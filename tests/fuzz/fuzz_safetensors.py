"""
Fuzz the safetensors reader and the reader of its index: an answer that adds up or a HeaderError, soon.

    pip install atheris
    PYTHONPATH=src python tests/fuzz/fuzz_safetensors.py CORPUS_FOLDER [libFuzzer options]

The first byte chooses: 0 the bytes are a whole file, 1 they are the JSON object of one (length and data are added
to suit), 2 they are an index.
"""

from __future__ import annotations

import json
import re
import sys
import time
from importlib import import_module
from pathlib import Path

from vram_planner.errors import HeaderError
from vram_planner.model_profiles.checkpoint_index import read_index
from vram_planner.model_profiles.headers import BytesSource
from vram_planner.model_profiles.safetensors import read_safetensors

LIMIT_BYTES = 400 << 20
LONGEST_SECONDS = 2.0  # of the processor, instrumented: twice to three times as slow


def check(data: bytes) -> bool:
    """Whether the bytes are accepted; raises where the reader does what it must not."""
    if not data:
        return False
    start = time.process_time()
    try:
        if data[0] % 3 == 2:
            index = read_index(data[1:], name="fuzz.index.json")
            assert not any("/" in file or ".." in file for file in index.files)
            return True
        source = _as_file(data[1:]) if data[0] % 3 else BytesSource(data[1:])
        header = read_safetensors(source)
    except HeaderError as error:
        return not error.hint
    finally:
        took = time.process_time() - start
        assert took < LONGEST_SECONDS, f"{took:.1f} s"
    length = int.from_bytes(source.read_at(0, 8), "little")
    assert sum(tensor.n_bytes for tensor in header.tensors) == source.size - 8 - length
    _compare(source.read_at(8, length), {tensor.name: tensor.shape for tensor in header.tensors})
    return True


def _as_file(body: bytes) -> BytesSource:
    """A file with this header and as many bytes of data as the last pair in it says, up to a terabyte."""
    numbers = [int(digits) for digits in re.findall(rb"\[ ?[0-9]{1,12}, ?([0-9]{1,12})\]", body)]
    data = len(body).to_bytes(8, "little") + body
    return BytesSource(data, size=len(data) + max(numbers, default=0))


def _compare(raw: bytes, shapes: dict[str, tuple[int, ...]]) -> None:
    """Python's own JSON parser reads the same out of what we accept."""
    parsed = json.loads(raw)
    parsed.pop("__metadata__", None)
    assert {name: tuple(entry["shape"]) for name, entry in parsed.items()} == shapes


def seeds() -> list[bytes]:
    """Small headers and an index, from which the fuzzer starts."""
    plain = {"a.weight": {"dtype": "BF16", "shape": [2, 3, 1], "data_offsets": [0, 12]}}
    more = {
        "__metadata__": {"format": "pt", "é": "\\n"},
        **plain,
        "b\\u00e9": {"shape": [], "data_offsets": [12, 16], "dtype": "F32"},
        "c": {"dtype": "F4", "shape": [0], "data_offsets": [16, 16]},
    }
    index = {
        "metadata": {"total_size": 12},
        "weight_map": {"a.weight": "model-00001-of-00001.safetensors", "b": "model.safetensors"},
    }
    headers = [json.dumps(plain).encode(), json.dumps(more).encode(), b"{}  "]
    files = [b"\0" + len(head).to_bytes(8, "little") + head + bytes(12) for head in headers[:1]]
    return [*files, *(b"\1" + head for head in headers), b"\2" + json.dumps(index).encode()]


def main() -> None:
    """Run the fuzzer until it is stopped or finds something."""
    import resource  # noqa: PLC0415  not on every system

    atheris = import_module("atheris")  # has no types, and is there only where fuzzing is done

    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    folder = next((Path(word) for word in sys.argv[1:] if not word.startswith("-")), None)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (folder / f"seed-{number}").write_bytes(seed)
    atheris.instrument_all()
    atheris.Setup(sys.argv, lambda data: check(data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
