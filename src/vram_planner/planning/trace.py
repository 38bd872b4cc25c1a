"""Traces of request lengths: CSV or JSONL files, bounded, refused where they are not what they should be."""

from __future__ import annotations

import csv
import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vram_planner.errors import RequestError
from vram_planner.planning.workload import Lengths, Table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

_MOST_BYTES = 256 << 20
_MOST_ROWS = 2_000_000
_LONGEST_LINE = 1 << 20
_MOST_TOKENS = 1 << 24
_SHARES = tuple(part / 100 for part in range(101))
# What published traces call the two lengths: Azure, BurstGPT, Mooncake, vLLM's and others' benchmarks.
_PROMPT = ("prompt_tokens", "prompt", "input_tokens", "input_length", "contexttokens", "request tokens", "prompt_len",
           "input_len", "isl")  # fmt: skip
_OUTPUT = ("output_tokens", "output", "output_length", "generatedtokens", "response tokens", "completion_tokens",
           "output_len", "osl")  # fmt: skip
_HINT = "a CSV with a header, or JSONL, with columns prompt_tokens and output_tokens"


def read_trace(path: str | Path) -> Lengths:
    """
    The lengths of a trace: rows are drawn from it at random, prompt and output together.

    Columns are prompt_tokens and output_tokens, or what Azure, Mooncake, BurstGPT and vLLM call them. Rows without an
    output (failures in BurstGPT) are left out. At most 256 MiB and two million rows; RequestError for anything else
    than whole numbers of tokens.
    """
    file = Path(path).expanduser()
    try:
        if not file.is_file():
            raise RequestError(f"there is no trace at {str(path)[:200]}", hint=_HINT)
        if file.stat().st_size > _MOST_BYTES:
            raise RequestError(f"{file} is larger than {_MOST_BYTES >> 20} MiB", hint="take a part of it")
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = _jsonl(stream, file) if file.suffix in (".jsonl", ".ndjson") else _csv(stream, file)
            read = list(islice(_pairs(rows, file), _MOST_ROWS + 1))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read the trace {file}: {error}", hint=_HINT) from error
    pairs = tuple(pair for pair in read if all(pair))
    if not pairs:
        raise RequestError(f"{file} has no requests", hint=_HINT)
    if len(read) > _MOST_ROWS:
        raise RequestError(f"{file} has more than {_MOST_ROWS:,} rows", hint="take a part of it")
    return Lengths(
        name=file.name,
        prompt=_table(sorted(prompt for prompt, _ in pairs)),
        output=_table(sorted(output for _, output in pairs)),
        pairs=pairs,
        basis="measured",
        source=f"{file.name}, {len(pairs):,} requests{_left_out(len(read) - len(pairs))}",
    )


def _left_out(rows: int) -> str:
    return f"; {rows:,} more without a prompt or an output are left out" if rows else ""


def _table(ordered: list[int]) -> Table:
    last = len(ordered) - 1
    return Table(_SHARES, tuple(float(ordered[round(share * last)]) for share in _SHARES))


def _lines(stream: TextIO, file: Path) -> Iterator[str]:
    while line := stream.readline(_LONGEST_LINE + 1):
        if len(line) > _LONGEST_LINE:
            raise RequestError(f"{file}: a line of more than {_LONGEST_LINE:,} characters", hint=_HINT)
        yield line


def _csv(stream: TextIO, file: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from csv.DictReader(_lines(stream, file), strict=True)
    except csv.Error as error:
        raise RequestError(f"{file} is no CSV: {error}", hint=_HINT) from error


def _jsonl(stream: TextIO, file: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(stream, file), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{file}, line {number} is no JSON", hint=_HINT) from error
        if not isinstance(row, dict):
            raise RequestError(f"{file}, line {number} is no object", hint=_HINT)
        yield row


def _pairs(rows: Iterator[dict[str, Any]], file: Path) -> Iterator[tuple[int, int]]:
    columns: tuple[str, str] | None = None
    for number, row in enumerate(rows, 1):
        if columns is None:
            columns = _column(row, _PROMPT, file), _column(row, _OUTPUT, file)
        prompt, output = (_tokens(row.get(name), f"{file}, row {number}, {name}") for name in columns)
        yield prompt, output


def _column(row: dict[str, Any], names: tuple[str, ...], file: Path) -> str:
    by_lower = {str(key).strip().lower(): str(key) for key in row if isinstance(key, str)}
    found = next((by_lower[name] for name in names if name in by_lower), None)
    if found is None:
        raise RequestError(f"{file} has no column {names[0]!r}", hint=_HINT)
    return found


def _tokens(value: Any, where: str) -> int:
    text = str(value).strip()
    text = text.removesuffix(".0")
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) <= 9):  # noqa: PLR2004
        raise RequestError(f"{where}: {text[:40]!r} is no number of tokens", hint="a whole number")
    tokens = int(text)
    if tokens > _MOST_TOKENS:
        raise RequestError(f"{where}: {tokens:,} tokens", hint=f"at most {_MOST_TOKENS:,}")
    return tokens
