"""The scoreboard of replayed records as text and as data. Rows come as the plain values that `validate` made."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def scores_text(found: Sequence[Any], scores: Sequence[Any]) -> str:
    """n, median, 90th percentile, worst and bias of each component, and how many records were left out."""
    rows = [
        [
            score.group,
            score.component,
            score.n,
            f"{score.median:.2%}",
            f"{score.p90:.2%}",
            f"{score.worst:.1%}",
            f"{score.bias:+.2%}",
            "" if score.covered is None else f"{score.covered:.0%}",
        ]
        for score in scores
    ]
    replayed = sum(hasattr(row, "pairs") for row in found)
    table = tabulate(
        rows,
        headers=["records", "component", "n", "median", "P90", "worst", "bias", "in band"],
        tablefmt="plain",
        disable_numparse=True,
        colalign=("left", "left", "right", "right", "right", "right", "right", "right"),
    )
    return f"{replayed} records replayed, {len(found) - replayed} not (--rows says why)\n\n{table}"


def rows_text(found: Sequence[Any]) -> str:
    """Each record's predicted and logged figures, then the reasons of those that were skipped."""
    lines = []
    for row in found:
        if hasattr(row, "pairs"):
            told = ", ".join(
                f"{name} {ours:,.2f}/{logged:,.2f} ({ours / logged - 1:+.1%})"
                for name, (ours, logged) in row.pairs.items()
            )
            lines.append(f"{row.id}  {row.engine} {row.version}  {row.model}: {told}")
            lines += [f"    {note}" for note in row.notes]
    reasons = Counter((row.engine, row.reason) for row in found if not hasattr(row, "pairs"))
    lines += ["", "not replayed:"]
    lines += [f"{count:>4}  {engine}: {reason}" for (engine, reason), count in reasons.most_common()]
    return "\n".join(lines)


def evidence_document(found: Sequence[Any], scores: Sequence[Any]) -> dict[str, Any]:
    """Scores, replayed records and skipped ones as plain data."""
    return {
        "schema_version": 1,
        "scores": [asdict(score) for score in scores],
        "rows": [asdict(row) for row in found if hasattr(row, "pairs")],
        "skipped": [asdict(row) for row in found if not hasattr(row, "pairs")],
    }


def log_text(replayed: Any, explain: Callable[[str, float, float], str]) -> str:
    """Plan against log, one line a part, with what usually explains a difference."""
    rows = [
        [name, f"{ours:,.2f}", f"{logged:,.2f}", f"{ours / logged - 1:+.2%}", explain(name, ours, logged)]
        for name, (ours, logged) in replayed.pairs.items()
    ]
    table = tabulate(
        rows,
        headers=["part", "plan", "log", "error", "what may explain it"],
        tablefmt="plain",
        disable_numparse=True,
        colalign=("left", "right", "right", "right", "left"),
    )
    return f"{replayed.engine} {replayed.version}, {replayed.model} on {replayed.gpu}\n\n{table}"
