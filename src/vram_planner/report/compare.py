"""A comparison as people read it: a line a figure, a column a side, differences in per cent."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

from tabulate import tabulate

from vram_planner.planning.performance import Band
from vram_planner.units import GIB, format_count

if TYPE_CHECKING:
    from vram_planner.planning.compare import Comparison, Side

_WIDTH = 100
_BESIDE = 2  # sides beside the first that a table of this width has room for
_KINDS = {
    "parameters": ("parameters", "count"),
    "weights_bytes": ("weights GiB", "gib"),
    "kv_bytes_per_token": ("KV bytes a token", "whole"),
    "total_bytes": ("needed GiB", "gib"),
    "at_once": ("room for at once", "one"),
    "max_context": ("longest context", "whole"),
    "ttft_s": ("first token s", "seconds"),
    "per_user_tokens_per_s": ("tokens/s a user", "rate"),
    "full_at_once": ("at once, full", "whole"),
    "full_per_user_tokens_per_s": ("tokens/s a user, full", "rate"),
    "full_tokens_per_s": ("tokens/s in all, full", "rate"),
    "cost_per_month": ("{} a month", "money"),
    "cost_per_month_each": ("{} a month each, full", "money"),
    "cost_per_million_tokens": ("{} a million tokens, full", "money"),
}
_WHOLE = 10


def comparison_table(found: Comparison, *, style: str = "plain") -> str:
    """The whole answer; more than three sides in blocks of three, the first in each."""
    requests = "request" if found.concurrency == 1 else "requests"
    blocks = [
        fill(
            f"{found.gpus} × {found.gpu} · {found.engine} · {found.concurrency:,} {requests} of {found.ctx:,} tokens"
            f" ({found.prompt_tokens:,} prompt); full: as many as have room",
            width=_WIDTH,
            subsequent_indent="  ",
        )
    ]
    blocks += _blocks(found, style)
    notes = [f"{_short(side)}: {side.verdict}" for side in found.sides if side.verdict != "fits"]
    if found.cost_source:
        notes.append(f"rent: {found.cost_source}, {found.currency}")
    blocks += ["\n".join(notes)] if notes else []
    return "\n\n".join(blocks)


def _blocks(found: Comparison, style: str) -> list[str]:
    """All sides at once in Markdown, else as many beside the first as the width has room for."""
    first, others = found.sides[0], found.sides[1:]
    for beside in (len(others), *range(_BESIDE, 0, -1)):
        chunks = [others[start : start + beside] for start in range(0, len(others), beside or 1)] or [()]
        blocks = [_block(found, (first, *chunk), style) for chunk in chunks]
        if style != "plain" or max(len(line) for block in blocks for line in block.splitlines()) <= _WIDTH:
            break
    return blocks


def _block(found: Comparison, sides: tuple[Side, ...], style: str) -> str:
    rows = []
    for figure, (label, kind) in _KINDS.items():
        cells = [_cell(found, side, figure, kind) for side in sides]
        if any(cells):
            rows.append([label.format(found.currency), *cells])
    return tabulate(
        rows,
        headers=["", *(_short(side).replace(" ", "\n" if style == "plain" else " ", 1) for side in sides)],
        tablefmt=style,
        colalign=("left", *(["right"] * len(sides))),
        disable_numparse=True,
    )


def _short(side: Side) -> str:
    name = side.model.rsplit("/", 1)[-1]
    return f"{name} {side.quant}"


def _cell(found: Comparison, side: Side, figure: str, kind: str) -> str:
    value = getattr(side, figure)
    if value is None:
        return ""
    text = (
        f"{_said(value.best, kind)} ({_said(value.low, kind)}-{_said(value.high, kind)})"
        if isinstance(value, Band)
        else _said(value, kind)
    )
    change = found.change(side, figure) if side is not found.sides[0] else None
    return text if change is None else f"{text} {change:+.0%}"


def _said(value: float, kind: str) -> str:
    if kind == "count":
        return format_count(int(value))
    if kind == "gib":
        return f"{value / GIB:.2f}"
    if kind == "whole":
        return f"{value:,.0f}"
    if kind == "one":
        return f"{value:,.1f}"
    if kind == "rate":
        return f"{value:,.0f}" if value >= _WHOLE else f"{value:.1f}"
    return f"{value:,.2f}" if value < _WHOLE * _WHOLE else f"{value:,.0f}"
