"""`vram-plan validate …`: the planner's figures against the real thing."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import click

from vram_planner.cli import options as opt
from vram_planner.cli.validate_fleet import fleet
from vram_planner.cli.validate_runs import live, shadow
from vram_planner.cli.validate_server import server

_DRIFTED = 3


@click.group()
def validate() -> None:
    """Check the planner's figures against the real thing."""


@validate.command()
@click.argument("pattern", required=False)
@opt.format_option
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def models(pattern: str | None, output: str, *, as_json: bool) -> int:
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
    output = "json" if as_json else output
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

    records = list(read_records(files))
    replayed = replay_all(records, engine)
    quiet = not sys.stderr.isatty()
    with click.progressbar(
        replayed, length=len(records), label="replaying", file=sys.stderr, hidden=quiet
    ) as bar:
        found = list(bar)
    scored = scores([row for row in found if isinstance(row, Replayed)], by)
    if as_json:
        emit(json_text(evidence_document(found, scored)))
        return 0
    if rows:
        emit(rows_text(found) + "\n")
    emit(scores_text(found, scored))
    return 0


@validate.command()
@click.argument("file", type=click.File("r", encoding="utf-8", errors="replace"))
@click.option("--model", help="What the log leaves out: the model.")
@click.option("--gpu", help="The card's name.")
@click.option("--gpu-total", metavar="SIZE", help="Its total as the engine saw it, as in 23.64GiB.")
@click.option("--engine-version", help="The engine's version.")
@click.option("--ctx", type=opt.TOKENS, help="max_model_len.")
@click.option("--tp", type=opt.WHOLE, help="Tensor parallel size.")
@click.option(
    "--tolerance", type=float, default=5.0, show_default=True, help="Per cent that a part may be off."
)
@click.option("--save", is_flag=True, help="Keep what it teaches: later plans on this card use it.")
@click.option("--json", "as_json", is_flag=True, help="The record and the comparison as one document.")
def log(file: TextIO, tolerance: float, *, save: bool, as_json: bool, **said: Any) -> int:
    """Read a start-up log (FILE, or - for standard input) and show plan against log, part by part."""
    from vram_planner.cli.show import emit, warn
    from vram_planner.report.data import as_json as json_text
    from vram_planner.report.evidence import log_text
    from vram_planner.units import GIB, parse_size
    from vram_planner.validate.logs import compare_log, explain_difference

    total = said["gpu_total"]
    overrides = {
        "model": said["model"],
        "gpu": said["gpu"],
        "gpu_total_gib": parse_size(total) / GIB if total else None,
        "engine_version": said["engine_version"],
        "max_model_len": said["ctx"],
        "tp": said["tp"],
    }
    row, replayed = compare_log(file, overrides)
    held = all(abs(ours / logged - 1) <= tolerance / 100 for ours, logged in replayed.pairs.values())
    if as_json:
        emit(json_text({"schema_version": 1, "record": row, "pairs": replayed.pairs, "held": held}))
    else:
        emit(log_text(replayed, explain_difference))
        if not held:
            warn(f"a part is more than {tolerance:g} % off")
    if save:
        from vram_planner.planning.calibration import save_calibration
        from vram_planner.validate.learned import learn_from_log

        warn(f"saved to {save_calibration(learn_from_log(row, replayed))}: later plans on this card use it")
    return 0 if held else _DRIFTED


validate.add_command(shadow)
validate.add_command(live)
validate.add_command(server)
validate.add_command(fleet)
