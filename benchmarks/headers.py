"""
Time and peak memory of reading headers, each in a process of its own: the index of a 671B checkpoint in 163 files,
the headers of all of them, and a GGUF header with a vocabulary of 152k tokens.

    python benchmarks/headers.py [--check]

--check exits with 1 where the index or the GGUF header takes 0.3 s of the processor or 60 MB and more.
"""

from __future__ import annotations

import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

CHILD = """
import time
from pathlib import Path
start, worked = time.perf_counter(), time.process_time()
{code}
took, worked = time.perf_counter() - start, time.process_time() - worked
# Not ru_maxrss: that begins with the peak of the process that started this one.
status = Path("/proc/self/status").read_text()
print(took, worked, int(status.split("VmHWM:")[1].split()[0]) * 1024, found)
"""
INDEX = """
from vram_planner.model_profiles.checkpoint_index import read_index
path = Path({folder!r}) / "model.safetensors.index.json"
index = read_index(path.read_bytes(), name=path.name)
found = f"{{len(index.weight_map):,}} tensors in {{len(index.files)}} files"
"""
SHARDS = """
from vram_planner.model_profiles.checkpoint import read_checkpoint
header = read_checkpoint(Path({folder!r}))
found = f"{{header.tensor_bytes:,}} B in {{len(header.tensors):,}} tensors"
"""
GGUF = """
from vram_planner.model_profiles.checkpoint import read_checkpoint
header = read_checkpoint(Path({folder!r}) / "vocabulary.gguf")
found = f"{{len(header.tensors):,}} tensors, {{header.metadata['tokenizer.ggml.tokens'].count:,}} tokens"
"""
CASES = {"index of 163 files": INDEX, "headers of 163 files": SHARDS, "GGUF, 152k tokens": GGUF}
CHECKED = ("index of 163 files", "GGUF, 152k tokens")
FILES, ROUNDS, WORST_S, WORST_MB = 163, 7, 0.3, 60
LAYERS, DENSE, EXPERTS, HIDDEN = 61, 3, 256, 7168


def tensors() -> dict[str, tuple[str, tuple[int, int]]]:
    """DeepSeek-V3 as published, its draft layer included: FP8 matrices with their scales."""
    found: dict[str, tuple[str, tuple[int, int]]] = {}

    def matrix(name: str, rows: int, columns: int) -> None:
        found[f"{name}.weight"] = ("F8_E4M3", (rows, columns))
        found[f"{name}.weight_scale_inv"] = ("F32", (-(-rows // 128), -(-columns // 128)))

    def block(name: str, width: int) -> None:
        matrix(f"{name}.gate_proj", width, HIDDEN)
        matrix(f"{name}.up_proj", width, HIDDEN)
        matrix(f"{name}.down_proj", HIDDEN, width)

    for layer in range(LAYERS + 1):
        name = f"model.layers.{layer}"
        for part, rows, columns in (
            ("q_a", 1536, HIDDEN),
            ("q_b", 24576, 1536),
            ("kv_b", 32768, 512),
            ("o", HIDDEN, 16384),
        ):
            matrix(f"{name}.self_attn.{part}_proj", rows, columns)
        matrix(f"{name}.self_attn.kv_a_proj_with_mqa", 576, HIDDEN)
        for part, width in (("q_a", 1536), ("kv_a", 512)):
            found[f"{name}.self_attn.{part}_layernorm.weight"] = ("BF16", (1, width))
        for part in ("input", "post_attention"):
            found[f"{name}.{part}_layernorm.weight"] = ("BF16", (1, HIDDEN))
        if layer < DENSE:
            block(f"{name}.mlp", 18432)
            continue
        found[f"{name}.mlp.gate.weight"] = ("BF16", (EXPERTS, HIDDEN))
        found[f"{name}.mlp.gate.e_score_correction_bias"] = ("F32", (1, EXPERTS))
        block(f"{name}.mlp.shared_experts", 2048)
        for expert in range(EXPERTS):
            block(f"{name}.mlp.experts.{expert}", 2048)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        found[name] = ("BF16", (129280, HIDDEN))
    found["model.norm.weight"] = ("BF16", (1, HIDDEN))
    return found


def write_checkpoint(folder: Path) -> None:
    """The index and the headers of its files; the data take no room on the disk."""
    everything = list(tensors().items())
    per_file = -(-len(everything) // FILES)
    weight_map, total = {}, 0
    for number in range(FILES):
        file = f"model-{number + 1:05}-of-{FILES:06}.safetensors"
        header, offset = {}, 0
        for name, (dtype, (rows, columns)) in everything[number * per_file : (number + 1) * per_file]:
            size = rows * columns * {"F8_E4M3": 1, "BF16": 2, "F32": 4}[dtype]
            header[name] = {"dtype": dtype, "shape": [rows, columns], "data_offsets": [offset, offset + size]}
            weight_map[name], offset = file, offset + size
        raw = json.dumps(header, separators=(",", ":")).encode()
        (folder / file).write_bytes(struct.pack("<Q", len(raw)) + raw)
        os.truncate(folder / file, 8 + len(raw) + offset)
        total += offset
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def write_gguf(folder: Path) -> None:
    """152k tokens, as many scores and types, 151k merges, 1,000 tensors."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    def strings(key: str, values: list[str]) -> bytes:
        return text(key) + struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(text, values))

    def numbers(key: str, kind: int, count: int) -> bytes:
        return text(key) + struct.pack("<IIQ", 9, kind, count) + bytes(4 * count)

    keys = (
        strings("tokenizer.ggml.tokens", [f"token{number}" for number in range(152_064)]),
        numbers("tokenizer.ggml.scores", 6, 152_064),
        numbers("tokenizer.ggml.token_type", 5, 152_064),
        strings("tokenizer.ggml.merges", [f"le ft{number}" for number in range(151_387)]),
    )
    infos = b"".join(
        text(f"blk.{n}.attn_q.weight") + struct.pack("<IQQIQ", 2, 4096, 1, 1, 8192 * n) for n in range(1000)
    )
    head = b"GGUF" + struct.pack("<IQQ", 3, 1000, len(keys)) + b"".join(keys) + infos
    (folder / "vocabulary.gguf").write_bytes(head)
    os.truncate(folder / "vocabulary.gguf", len(head) + 32 + 8192 * 1000)


def measure(code: str) -> tuple[float, float, float, str]:
    """Seconds, those of the processor, peak MB, and what was found."""
    child = [sys.executable, "-c", CHILD.format(code=code)]
    took, worked, memory, found = subprocess.run(
        child, capture_output=True, text=True, check=True
    ).stdout.split(" ", 3)
    return float(took), float(worked), float(memory) / 10**6, found.strip()


def main() -> None:
    wrong = []
    with tempfile.TemporaryDirectory() as name:
        write_checkpoint(Path(name))
        write_gguf(Path(name))
        for case, code in CASES.items():
            runs = [measure(code.format(folder=name)) for _ in range(ROUNDS)]
            took, worked = (statistics.median(run[part] for run in runs) for part in (0, 1))
            memory, found = max(run[2] for run in runs), runs[0][3]
            print(
                f"{case:<20} {took * 1000:6.0f} ms, {worked * 1000:5.0f} of the processor, {memory:3.0f} MB  {found}"
            )
            if case in CHECKED and (worked >= WORST_S or memory >= WORST_MB):
                wrong.append(case)
    if "--check" in sys.argv and wrong:
        sys.exit(f"slower or larger than 0.3 s and 60 MB: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
