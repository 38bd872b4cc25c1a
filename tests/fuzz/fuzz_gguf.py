"""
Fuzz the GGUF reader: whatever the bytes, an answer that adds up or a PlannerError, soon and in little memory.

    pip install atheris
    PYTHONPATH=src python tests/fuzz/fuzz_gguf.py CORPUS_FOLDER [libFuzzer options]

The first byte says how large the file pretends to be: as large as its bytes, or a sparse terabyte of zeros.
"""

from __future__ import annotations

import struct
import sys
import time
from importlib import import_module
from pathlib import Path

from vram_planner.errors import HeaderError, PlannerError
from vram_planner.model_profiles import gguf
from vram_planner.model_profiles.gguf import read_gguf
from vram_planner.model_profiles.gguf_architecture import gguf_profile

HERE = Path(__file__).parent
LIMIT_BYTES = 400 << 20
LONGEST_SECONDS = 2.0  # of the processor, instrumented: twice to three times as slow


class SparseFile:
    """Bytes, and behind them zeros up to `size`."""

    name = "fuzz.gguf"
    block = 1 << 16

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self.size = data, size

    def read_at(self, offset: int, length: int) -> bytes:
        if offset + length > self.size:
            raise HeaderError("read beyond the end", hint="-", offset=offset)
        return self._data[offset : offset + length].ljust(length, b"\0")


def check(data: bytes) -> bool:
    """Whether the bytes are a header that is accepted; raises where the reader does what it must not."""
    if not data:
        return False
    body = data[1:]
    size = len(body) if data[0] & 1 else 1 << 40
    start = time.process_time()
    try:
        header = read_gguf(SparseFile(body, size))
        gguf_profile(header)
    except PlannerError as error:
        return not error.hint
    finally:
        took = time.process_time() - start
        assert took < LONGEST_SECONDS, f"{took:.1f} s"
    assert all(tensor.n_bytes >= 0 for tensor in header.tensors)
    assert sum(tensor.n_bytes for tensor in header.tensors) <= size
    return True


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def seeds() -> list[bytes]:
    """Small files with every kind of value, from which the fuzzer starts."""
    keys = [
        _text("general.architecture") + struct.pack("<I", 8) + _text("llama"),
        _text("general.alignment") + struct.pack("<II", 4, 32),
        _text("llama.block_count") + struct.pack("<II", 4, 1),
        _text("llama.embedding_length") + struct.pack("<II", 4, 32),
        _text("llama.feed_forward_length") + struct.pack("<II", 4, 64),
        _text("llama.attention.head_count") + struct.pack("<II", 4, 4),
        _text("llama.attention.head_count_kv") + struct.pack("<IIQ", 9, 4, 1) + struct.pack("<I", 2),
        _text("llama.context_length") + struct.pack("<IQ", 10, 4096),
        _text("llama.rope.freq_base") + struct.pack("<If", 6, 1e4),
        _text("tokenizer.ggml.add_bos_token") + struct.pack("<IB", 7, 1),
        _text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 3) + _text("a") + _text("") + _text("abc"),
        _text("tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 3) + struct.pack("<fff", 0, 1, 2),
        _text("split.count") + struct.pack("<IH", 2, 1),
    ]
    shapes = {
        "token_embd.weight": (32, 3), "output_norm.weight": (32,), "output.weight": (32, 3),
        "blk.0.attn_norm.weight": (32,), "blk.0.attn_q.weight": (32, 32), "blk.0.attn_k.weight": (32, 16),
        "blk.0.attn_v.weight": (32, 16), "blk.0.attn_output.weight": (32, 32), "blk.0.ffn_norm.weight": (32,),
        "blk.0.ffn_gate.weight": (32, 64), "blk.0.ffn_up.weight": (32, 64), "blk.0.ffn_down.weight": (64, 32),
    }  # fmt: skip
    files = []
    for version, chosen, kinds in ((3, keys, shapes), (2, keys[:1], {}), (3, keys[:9], shapes)):
        infos, offset = b"", 0
        for name, shape in kinds.items():
            infos += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)
            n_bytes = 4
            for side in shape:
                n_bytes *= side
            offset += -(-n_bytes // 32) * 32
        head = b"GGUF" + struct.pack("<IQQ", version, len(kinds), len(chosen)) + b"".join(chosen) + infos
        files.append(b"\0" + head)
        files.append(b"\1" + head + bytes(-len(head) % 32 + offset))
    return files


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
    # The bound itself has its own test; reached in every second run, it would eat the time.
    vars(gguf)["MOST_STRINGS"] = 10_000
    atheris.instrument_all()
    atheris.Setup(sys.argv, lambda data: check(data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
