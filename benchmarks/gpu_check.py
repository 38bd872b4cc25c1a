"""
Live validation over a small matrix; `make gpu-check` writes gpu-check.json and gpu-check.md.

    python benchmarks/gpu_check.py [--device cpu] [--gpu 0] [--over all] [--out FOLDER]

Where several GPUs are visible, one model is dealt out over all of them too. Models are built with random weights from their configurations, so nothing is downloaded. Exit status: 0 every plan
held, 3 one did not, 4 nothing could be measured here.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from vram_planner.errors import NoGpuError, PlannerError
from vram_planner.validate.device_set import Gpus, gpu_numbers
from vram_planner.validate.live_run import live

# Dense, experts, sliding windows, a latent cache; from small to what a 24 GB card holds.
MODELS = {
    "cuda": ("Qwen/Qwen2.5-0.5B", "1.5b", "8b", "mistralai/Mistral-7B-v0.1"),
    "cpu": ("Qwen/Qwen2.5-0.5B",),
}
CONTEXTS = {"cuda": (2048, 8192), "cpu": (256,)}
MOST = {"cuda": 64, "cpu": 2}
OVER_ALL = ("8b", 8192)


def several(over: str) -> tuple[int, ...]:
    """The GPUs that one model is dealt out over; none where there is only one."""
    try:
        found = gpu_numbers(over)
    except NoGpuError:
        return ()
    return found if len(found) > 1 else ()


def one(model: str, ctx: int, device: str, gpu: Gpus) -> dict[str, Any]:
    """One cell of the matrix, or why it is empty."""
    try:
        found = live(model, ctx=ctx, device=device, gpu=gpu, random_weights=True, most=MOST[device])
    except PlannerError as error:
        return {"model": model, "ctx": ctx, "error": str(error), "hint": error.hint}
    return {"model": model, "ctx": ctx, **found.to_dict()}


def as_markdown(cells: list[dict[str, Any]]) -> str:
    """A row a part."""
    lines = [
        "| model | ctx | part | planned B | measured B | error |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for cell in cells:
        gpus = f" over {len(cell['cards'])} GPUs" if cell.get("cards") else ""
        where = f"| {cell['model']}{gpus} | {cell.get('request', cell).get('context', cell['ctx'])} |"
        if "error" in cell:
            lines.append(f"{where} not measured: {cell['error']} | | | |")
        lines += [
            f"{where} {row['name']} | {row['planned_bytes']:,} | {row['measured_bytes']:,} | {row['error']:+.2%} |"
            for row in cell.get("rows", ())
        ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the matrix and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=list(MODELS), default="cuda")
    parser.add_argument("--gpu", type=int, default=0)
    parser.add_argument("--over", default="all", help="several GPUs for one model: 0,1 or all")
    parser.add_argument("--out", type=Path, default=Path())
    asked = parser.parse_args()
    cells = []
    for model in MODELS[asked.device]:
        for ctx in CONTEXTS[asked.device]:
            print(f"{model}, {ctx} tokens", file=sys.stderr)
            cells.append(one(model, ctx, asked.device, asked.gpu))
    if asked.device == "cuda" and (numbers := several(asked.over)):
        model, ctx = OVER_ALL
        print(f"{model}, {ctx} tokens, over GPUs {', '.join(map(str, numbers))}", file=sys.stderr)
        cells.append(one(model, ctx, asked.device, numbers))
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "gpu-check.json").write_text(json.dumps(cells, indent=2) + "\n", encoding="utf-8")
    (asked.out / "gpu-check.md").write_text(as_markdown(cells), encoding="utf-8")
    print(as_markdown(cells), end="")
    measured = [cell for cell in cells if "error" not in cell]
    if not measured:
        return 4
    return 0 if all(cell["held"] for cell in measured) else 3


if __name__ == "__main__":
    sys.exit(main())
