"""
Sizes of published GGUF files against ours, by who made them.

    python benchmarks/gguf_sizes.py            n, median, 90th percentile and worst of each group
    python benchmarks/gguf_sizes.py --rows     every row, the worst first

Rows with `differs` are files that their name does not describe; they count in "all rows" alone.
"""

from __future__ import annotations

import json
import statistics
import sys
from functools import cache
from pathlib import Path
from typing import Any

from vram_planner.architecture.gguf import GgufMix, gguf_precision, rope_factor_bytes
from vram_planner.architecture.precision import walk
from vram_planner.model_profiles.resolve import resolve

ORACLES = Path(__file__).parents[1] / "tests" / "oracles"
FIRST, LATER = "gguf_file_sizes.jsonl", "gguf_file_sizes_later.jsonl"
GIB = 1 << 30
# Vocabulary, merges and token types: 41 bytes a token in DeepSeek-R1's files, 23 in Llama 2's.
HEADER_BYTES_PER_TOKEN = 40
Row = dict[str, Any]


def rows(name: str) -> list[Row]:
    """The published files of a table."""
    return [json.loads(line) for line in (ORACLES / name).read_text("utf-8").splitlines()]


@cache
def tensor_bytes(base: str, quant: str) -> int:
    """Ours, without the header."""
    model = resolve(base, offline=True).architecture
    mix = gguf_precision(quant, base)
    return rope_factor_bytes(model) + sum(
        mix.weight_bytes(weight, place) * count
        for weight, place, count in walk(model, mix)
        if weight not in model.towers
    )


def ours_over_published(row: Row) -> float:
    """1 where we meet the file; 40 bytes a token are added where the source gives the whole file."""
    model = resolve(row["base"], offline=True).architecture
    header = model.vocabulary * HEADER_BYTES_PER_TOKEN if row.get("whole_file") else 0
    published = {"bytes": 1.0, "size_gb": 1e9, "size_gib": GIB, "bits_per_weight": model.parameters / 8}
    unit = next(key for key in published if key in row)
    return (tensor_bytes(row["base"], row["quant"]) + header) / (float(row[unit]) * published[unit])


def group(row: Row) -> str:
    """Whose rules made the file."""
    mix: GgufMix = gguf_precision(row["quant"], row["base"])
    if "differs" in row:
        return "not what the name says"
    if mix.dynamic:
        r1 = mix.source.startswith("Unsloth's dynamic ")
        return "Unsloth, DeepSeek-R1 of January 2025" if r1 else "Unsloth, Dynamic 2.0 (assumed)"
    if mix.rules:
        return f"llama.cpp's rules of {mix.rules}"
    if any(stored == "f16" for _, stored in mix.kept):
        return "Ollama, values in F16"
    return "llama.cpp's rules of today" + (", importance matrix" if mix.imatrix else "")


def percentile_90(errors: list[float]) -> float:
    """The 90th percentile, between the values."""
    return statistics.quantiles(errors, n=10, method="inclusive")[-1] if len(errors) > 1 else errors[0]


def scores(table: list[Row]) -> dict[str, list[float]]:
    """Absolute relative errors by group, those of all rows and those of the rows that their name describes."""
    found: dict[str, list[float]] = {}
    for row in table:
        error = abs(ours_over_published(row) - 1)
        places = [group(row), "all rows"] + ["rows whose name says the type"] * ("differs" not in row)
        for place in places:
            found.setdefault(place, []).append(error)
    return found


def main() -> None:
    """Print both tables."""
    for name in (FIRST, LATER):
        table = rows(name)
        print(name)
        if "--rows" in sys.argv:
            for row in sorted(table, key=lambda row: -abs(ours_over_published(row) - 1)):
                error = 100 * (ours_over_published(row) - 1)
                print(
                    f"  {error:+8.2f} %  {row['model'][:44]:44} {row['quant']:22} {row.get('differs', '')[:60]}"
                )
            continue
        print(f"  {'group':44} {'n':>4} {'median':>8} {'P90':>8} {'worst':>8}")
        for place, errors in sorted(scores(table).items(), key=lambda item: (item[0] < "all", item[0])):
            middle, high = statistics.median(errors), percentile_90(errors)
            print(f"  {place:44} {len(errors):4} {middle:8.3%} {high:8.3%} {max(errors):8.2%}")


if __name__ == "__main__":
    main()
