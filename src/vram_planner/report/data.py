"""A plan as data: JSON, CSV, Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from vram_planner.report.text import headline, label
from vram_planner.units import format_gib

if TYPE_CHECKING:
    from vram_planner.planning.plan import MemoryPlan


def as_json(document: Any) -> str:
    """Exactly one JSON document; what is infinite is null, for JSON has no number for it (RFC 8259, 6)."""
    return json.dumps(_finite(document), indent=2, ensure_ascii=False, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value


def plan_csv(plan: MemoryPlan) -> str:
    """One row a part, in bytes, with the total last."""
    rows: list[dict[str, Any]] = [
        {
            "part": part.name,
            "bytes": part.n_bytes,
            "low_bytes": part.low,
            "high_bytes": part.high,
            "basis": part.basis.value,
            "source": part.source,
        }
        for part in plan.parts
    ]
    total = {
        "part": "total",
        "bytes": plan.total_bytes,
        "low_bytes": plan.low_bytes,
        "high_bytes": plan.high_bytes,
    }
    return rows_csv([*rows, {**total, "basis": "", "source": ""}])


def rows_csv(rows: list[dict[str, Any]]) -> str:
    """Rows of one shape as CSV with a header line."""
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def plan_markdown(plan: MemoryPlan) -> str:
    """The parts, and the card or the candidates, as Markdown tables."""
    parts = tabulate(
        [
            *([label(part), format_gib(part.n_bytes), part.basis.value, part.detail] for part in plan.parts),
            ["**needed**", format_gib(plan.total_bytes), "", ""],
        ],
        headers=["per GPU", "GiB", "basis", "detail"],
        tablefmt="github",
        disable_numparse=True,
    )
    blocks = [f"**{headline(plan)}**", parts]
    if plan.gpu is None:
        blocks.append(
            tabulate(
                [
                    [f"{row.count} × {row.gpu}", f"{row.max_concurrency:.1f}", row.cost_per_hour]
                    for row in plan.candidates
                ],
                headers=["holds it", "at once", "$/hour"],
                tablefmt="github",
                disable_numparse=True,
            )
        )
    else:
        blocks.append(f"{plan.gpu.count} × {plan.gpu.name}: {plan.verdict}")
    return "\n\n".join(blocks)
