"""
Live validation over a small matrix; `make gpu-check` writes gpu-check.json and gpu-check.md.

    python benchmarks/gpu_check.py [--device cpu] [--gpu 0] [--over all] [--out FOLDER]

From 0.5B to 8B, two contexts, and both of transformers' own attentions; where several GPUs are visible, one model is
dealt out over all of them too. Models are built with random weights from their configurations, so nothing is downloaded.
Each cell is written down as soon as it is measured. Exit status: 0 every plan held, 3 one did not, 4 nothing could be
measured here.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from vram_planner.errors import NoGpuError, PlannerError
from vram_planner.validate.device_set import gpu_numbers
from vram_planner.validate.live_run import live

# Dense, a large vocabulary, sliding windows; from small to what a 24 GB card holds.
MODELS = {
    "cuda": ("Qwen/Qwen2.5-0.5B", "1.5b", "mistralai/Mistral-7B-v0.1", "7b", "8b"),
    "cpu": ("Qwen/Qwen2.5-0.5B",),
}
CONTEXTS = {"cuda": (2048, 8192), "cpu": (128, 256)}
ATTENTIONS = ("sdpa", "eager")
MOST = {"cuda": 64, "cpu": 2}
OVER_ALL = ("8b", 8192)


def several(over: str) -> tuple[int, ...]:
    """The GPUs that one model is dealt out over; none where there is only one."""
    try:
        found = gpu_numbers(over)
    except NoGpuError:
        return ()
    return found if len(found) > 1 else ()


def one(model: str, ctx: int, attn: str, device: str, gpu: int | tuple[int, ...]) -> dict[str, Any]:
    """One cell of the matrix, or why it is empty."""
    where = {"model": model, "ctx": ctx, "attn": attn, "gpus": [gpu] if isinstance(gpu, int) else list(gpu)}
    try:
        found = live(
            model, ctx=ctx, attn=attn, device=device, gpu=gpu, random_weights=True, most=MOST[device]
        )
    except PlannerError as error:
        return {**where, "error": str(error), "hint": error.hint}
    return {**found.to_dict(), **where, "resolved": found.model}


def as_markdown(cells: list[dict[str, Any]]) -> str:
    """What it ran on, then a row a part and a row a recommendation."""
    lines = [_machine(cells), "", "| model | ctx | attn | part | planned B | measured B | error |"]
    lines.append("| --- | ---: | --- | --- | ---: | ---: | ---: |")
    for cell in cells:
        where = f"| {_called(cell)} | {cell['ctx']} | {cell['attn']} |"
        if "error" in cell:
            lines.append(f"{where} not measured: {cell['error']} | | | |")
        lines += [
            f"{where} {row['name']} | {row['planned_bytes']:,} | {row['measured_bytes']:,} | {_off(row['error'])} |"
            for row in cell.get("rows", ())
        ]
    lines += ["", "| model | ctx | attn | held | at once | bound by | left behind B |"]
    lines.append("| --- | ---: | --- | --- | ---: | --- | ---: |")
    for cell in cells:
        if "error" not in cell:
            best = cell["recommendation"] or {"concurrency": "", "bound_by": ""}
            lines.append(
                f"| {_called(cell)} | {cell['ctx']} | {cell['attn']} | {'yes' if cell['held'] else 'no'} |"
                f" {best['concurrency']} | {best['bound_by']} | {cell['left_behind_bytes']} |"
            )
    return "\n".join(lines) + "\n"


def _called(cell: dict[str, Any]) -> str:
    """The model, and over how many GPUs it is dealt out."""
    return f"{cell['model']} over {len(cell['gpus'])} GPUs" if len(cell["gpus"]) > 1 else str(cell["model"])


def _off(error: float | None) -> str:
    return "nothing measured" if error is None else f"{error:+.2%}"


def _machine(cells: list[dict[str, Any]]) -> str:
    """The device and the versions of the first cell that was measured, and the day."""
    day = datetime.now(UTC).date().isoformat()
    for cell in cells:
        if "error" not in cell:
            facts = (*cell["device"].items(), *cell["versions"].items())
            return f"{day}: " + ", ".join(f"{name} {value}" for name, value in facts)
    return f"{day}: nothing could be measured"


def write(cells: list[dict[str, Any]], folder: Path) -> None:
    """Both reports, whole."""
    (folder / "gpu-check.json").write_text(json.dumps(cells, indent=2) + "\n", encoding="utf-8")
    (folder / "gpu-check.md").write_text(as_markdown(cells), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run the matrix and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=list(MODELS), default="cuda")
    parser.add_argument("--gpu", type=int, default=0)
    parser.add_argument("--over", default="all", help="several GPUs for one model: 0,1 or all")
    parser.add_argument("--out", type=Path, default=Path())
    asked = parser.parse_args(arguments)
    matrix: list[tuple[str, int, str, int | tuple[int, ...]]] = [
        (model, ctx, attn, asked.gpu)
        for model, ctx, attn in product(MODELS[asked.device], CONTEXTS[asked.device], ATTENTIONS)
    ]
    if asked.device == "cuda" and (numbers := several(asked.over)):
        matrix += [(*OVER_ALL, attn, numbers) for attn in ATTENTIONS]
    asked.out.mkdir(parents=True, exist_ok=True)
    cells: list[dict[str, Any]] = []
    for model, ctx, attn, gpu in matrix:
        over = "" if isinstance(gpu, int) else f", over {len(gpu)} GPUs"
        print(f"{model}, {ctx} tokens, {attn}{over}", file=sys.stderr)
        cells.append(one(model, ctx, attn, asked.device, gpu))
        write(cells, asked.out)
    print(as_markdown(cells), end="")
    measured = [cell for cell in cells if "error" not in cell]
    if not measured:
        return 4
    return 0 if all(cell["held"] for cell in measured) else 3


if __name__ == "__main__":
    sys.exit(main())
