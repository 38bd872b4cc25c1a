"""`vram-plan validate …`: the planner's figures against the real thing."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

from vram_planner.cli import options as opt

_DRIFTED = 3


@click.group()
def validate() -> None:
    """Check the planner's figures against the real thing."""


@validate.command()
@click.argument("pattern", required=False)
@opt.format_option
def models(pattern: str | None, output: str) -> int:
    """Compare parameter counts with every causal model of the installed transformers (needs [validate])."""
    from vram_planner.cli.show import emit, show_rows
    from vram_planner.validate.models import walk_models

    quiet = not sys.stderr.isatty()
    with click.progressbar(walk_models(pattern), label="building", file=sys.stderr, hidden=quiet) as found:
        rows = [asdict(row) for row in found]
    headers = {
        "model_type": "model type",
        "status": "status",
        "ours": "ours",
        "theirs": "transformers",
        "detail": "",
    }
    show_rows(rows, output, headers=headers)
    counts = Counter(row["status"] for row in rows)
    if output == "table":
        told = ", ".join(f"{count} {status}" for status, count in counts.items())
        emit(f"\n{len(rows)} model types: {told}")
    return _DRIFTED if counts["differs"] else 0


@validate.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--engine", help="Only records of this engine.")
@click.option(
    "--by",
    type=click.Choice(["fitted", "engine", "version", "gpu", "model"]),
    default="fitted",
    show_default=True,
    help="Group the scores.",
)
@click.option(
    "--rows", is_flag=True, help="Each record: predicted against logged, and why others were skipped."
)
@click.option("--json", "as_json", is_flag=True, help="Scores, rows and skipped records as one document.")
def evidence(files: tuple[Path, ...], engine: str | None, by: str, *, rows: bool, as_json: bool) -> int:
    """Replay records of real start-ups (JSONL FILES, or the package's own) and score every component."""
    from vram_planner.cli.show import emit
    from vram_planner.report.data import as_json as json_text
    from vram_planner.report.evidence import evidence_document, rows_text, scores_text
    from vram_planner.validate.evidence import Replayed, read_records, replay_all, scores

    found = list(replay_all(read_records(files), engine))
    scored = scores([row for row in found if isinstance(row, Replayed)], by)
    if as_json:
        emit(json_text(evidence_document(found, scored)))
        return 0
    if rows:
        emit(rows_text(found) + "\n")
    emit(scores_text(found, scored))
    return 0
