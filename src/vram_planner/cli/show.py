"""What the commands print: data to stdout, warnings to stderr."""

from __future__ import annotations

import fnmatch
import os
from typing import TYPE_CHECKING, Any

import click

from vram_planner.errors import OfflineError, UnknownGpuError, UnknownModelError
from vram_planner.units import format_count, format_gib

if TYPE_CHECKING:
    from vram_planner.model_profiles.resolve import ModelProfile
    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.planning.request import PlanRequest


def emit(text: str) -> None:
    """One block to stdout; colours only where a person looks and NO_COLOR is not set."""
    click.echo(text, color=False if os.environ.get("NO_COLOR") else None)


def warn(text: str) -> None:
    """One line to stderr."""
    click.echo(f"warning: {text}", err=True)


def show_plan(request: PlanRequest, plan: MemoryPlan, output: str, *, explain: bool) -> None:
    """Print a plan in the asked form, and its warnings beside it."""
    for line in plan.warnings:
        warn(line)
    if output != "table":
        emit(_as_data(plan, output))
        return
    from vram_planner.report import text

    if explain:
        emit(text.explain(plan))
        return
    ways: tuple[Any, ...] = ()
    if plan.fits is False:
        from vram_planner.planning.ways_out import ways_out

        ways = ways_out(request, plan)
    emit(_coloured(text.plan_table(plan, ways)))


def _as_data(plan: MemoryPlan, output: str) -> str:
    from vram_planner.report import data

    if output == "json":
        return data.as_json(plan.to_dict())
    return data.plan_csv(plan) if output == "csv" else data.plan_markdown(plan)


def _coloured(table: str) -> str:
    for words, colour in (("does not fit:", "red"), ("may fit", "yellow"), ("\nfits:", "green")):
        if words in table:
            return table.replace(words, click.style(words, fg=colour), 1)
    return table


def show_rows(rows: list[dict[str, Any]], output: str, *, headers: dict[str, str]) -> None:
    """Rows of plain values: JSON and CSV in full, tables with the named columns."""
    from tabulate import tabulate

    from vram_planner.report.data import as_json, rows_csv

    if output == "json":
        emit(as_json(rows))
    elif output == "csv":
        emit(rows_csv([{key: _flat(value) for key, value in row.items()} for row in rows]))
    else:
        cells = [[_flat(row.get(key)) for key in headers] for row in rows]
        style = "github" if output == "markdown" else "plain"
        emit(tabulate(cells, headers=list(headers.values()), tablefmt=style, disable_numparse=True))


def _flat(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return "; ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(str(item) for item in value)
    return str(value)


def _matches(pattern: str, *names: str) -> bool:
    wanted = pattern.lower()
    if any(letter in wanted for letter in "*?["):
        return any(fnmatch.fnmatch(name.lower(), wanted) for name in names)
    return any(wanted in name.lower() for name in names)


def show_models(pattern: str | None, output: str, *, offline: bool = False) -> None:
    """The catalogue of models, or all that is known of one; a network is asked only for what no row matches."""
    from vram_planner.model_profiles.resolve import model_names, resolve

    names = [name for name in model_names() if pattern is None or _matches(pattern, name)]
    if pattern is not None and (len(names) != 1 or names[0].lower() == pattern.lower()):
        try:
            only = resolve(pattern, offline=offline or bool(names))
        except (UnknownModelError, OfflineError):
            if not names:
                raise
        else:
            if not names or only.alias_of:
                _show_model(only, output)
                return
    if len(names) == 1:
        _show_model(resolve(names[0]), output)
        return
    rows = [_model_row(resolve(name)) for name in names]
    show_rows(
        rows,
        output,
        headers={
            "name": "model",
            "size": "parameters",
            "precision": "stored as",
            "max_context": "context",
            "provenance": "configuration",
        },
    )


def _model_row(profile: ModelProfile) -> dict[str, Any]:
    model = profile.architecture
    return {
        "name": profile.name,
        "model_type": model.model_type,
        "parameters": model.parameters,
        "size": format_count(model.parameters),
        "active_parameters": model.active_parameters,
        "weights_bytes": model.weights_bytes(),
        "precision": model.precision.name,
        "layers": len(model.layers),
        "max_context": model.max_context,
        "source": profile.source,
        "provenance": profile.provenance,
    }


def _show_model(profile: ModelProfile, output: str) -> None:
    row = _model_row(profile)
    if output != "table":
        show_rows([row], output, headers={key: key for key in row})
        return
    from vram_planner.report.models import explain_model

    emit(explain_model(profile))


def show_gpus(pattern: str | None, output: str) -> None:
    """The catalogue of accelerators, all that is known of one, or what this machine has."""
    from vram_planner.hardware_profiles import all_gpus, find_gpu

    if pattern is not None and pattern.lower() == "auto":
        _show_machine(output)
        return
    found = [gpu for gpu in all_gpus() if pattern is None or _matches(pattern, gpu.name, *gpu.aliases)]
    if pattern is not None:
        try:
            only = find_gpu(pattern).gpu
        except UnknownGpuError:
            if not found:
                raise
        else:
            found = [only]
    if len(found) == 1 and output == "table":
        emit(found[0].name)
        emit(
            "\n".join(
                f"{name:<24} {_flat(value):<44} {how}".rstrip() for name, value, how in found[0].explain()
            )
        )
        return
    show_rows(
        [_gpu_row(gpu) for gpu in found],
        output,
        headers={
            "name": "accelerator",
            "nameplate_gib": "sold as GiB",
            "total_gib": "seen GiB",
            "bandwidth_gb_per_s": "GB/s",
            "tdp_w": "W",
        },
    )


def _gpu_row(gpu: Any) -> dict[str, Any]:
    row: dict[str, Any] = gpu.to_row()
    bandwidth = gpu.bandwidth_bytes_per_s
    return {
        **row,
        "nameplate_gib": "" if gpu.nameplate_bytes is None else format_gib(gpu.nameplate_bytes, 0),
        "total_gib": format_gib(gpu.total_bytes),
        "bandwidth_gb_per_s": None if bandwidth is None else f"{bandwidth / 10**9:g}",
    }


def _show_machine(output: str) -> None:
    from dataclasses import asdict

    from vram_planner.hardware_profiles import detect

    machine = detect()
    rows = [asdict(gpu) for gpu in machine.gpus]
    show_rows(
        rows,
        output,
        headers={
            "index": "#",
            "name": "GPU",
            "total_bytes": "total B",
            "free_bytes": "free B",
            "used_bytes": "used B",
            "memory_note": "note",
        },
    )
