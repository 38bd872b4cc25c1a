"""A sweep as text: the first rows as a table, all of them as CSV or Markdown."""

from __future__ import annotations

import csv
import io
from itertools import islice
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from vram_planner.planning.sweep_table import SPEEDS
from vram_planner.units import format_gib

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vram_planner.planning.sweep_table import Table

_LONGEST = 18
_MAKERS = ("NVIDIA GeForce ", "NVIDIA ", "AMD Instinct ", "AMD ")


def csv_lines(table: Table) -> Iterator[str]:
    """The header, then a line a cell, one at a time: a million of them never stand in memory together."""
    for number, row in enumerate(table.rows()):
        text = io.StringIO()
        writer = csv.DictWriter(text, list(row), lineterminator="")
        if number == 0:
            yield ",".join(row)
        writer.writerow(row)
        yield text.getvalue()


def sweep_text(table: Table, *, most: int | None) -> str:
    """A table of at most so many rows for people, of all of them in Markdown where `most` is None."""
    fast = SPEEDS[0] in table.figures
    rows = [_cells(row, whole=most is None, fast=fast) for row in islice(table.rows(), most)]
    headers = ["model", "format", "GPUs", "ctx", "asked", "", "GiB", "spare", "at once"]
    text = tabulate(
        rows,
        headers=[*headers, "TTFT s", "TPOT ms"] if fast else headers,
        tablefmt="plain" if most is not None else "github",
        colalign=("left", "left", "left", "right", "right", "left") + ("right",) * (5 if fast else 3),
        disable_numparse=True,
    )
    notes = sorted(set(table.reasons.values()))
    refused = [f"refused: {reason}" for reason in notes[:5]]
    if len(notes) > len(refused):
        refused.append(f"and {len(notes) - len(refused)} other reasons: the column reason of --format csv")
    rest = len(table) - len(rows)
    if rest:
        refused.append(f"{rest:,} more of {len(table):,} rows: --format csv, json or markdown")
    return "\n\n".join(block for block in (text, "\n".join(refused)) if block)


def _cells(row: dict[str, Any], *, whole: bool, fast: bool) -> list[str]:
    model, gpu = row["model"].rsplit("/", 1)[-1], row["gpu"]
    for maker in _MAKERS:
        gpu = gpu.removeprefix(maker)
    if not whole and len(model) > _LONGEST:
        model = f"…{model[1 - _LONGEST :]}"
    shown = [
        model,
        row["quant"],
        f"{row['count']} × {gpu}",
        f"{row['ctx']:,}",
        f"{row['concurrency']:,}",
        row["verdict"],
    ]
    if row["total_bytes"] is None:
        return [*shown, *[""] * (5 if fast else 3)]
    shown += [
        format_gib(row["total_bytes"]),
        format_gib(row["headroom_bytes"]),
        f"{row['max_concurrency']:,.1f}",
    ]
    if fast:
        first, each = row["ttft_s"], row["tpot_s"]
        shown += ["" if first is None else f"{first:.2f}", "" if each is None else f"{each * 1000:.0f}"]
    return shown
