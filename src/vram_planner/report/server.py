"""What attaching to a server found, as text. Results come as the plain values that `validate` made."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from vram_planner.report.validation import recommended
from vram_planner.units import format_gib

if TYPE_CHECKING:
    from collections.abc import Iterable

_WIDTH = 100
_HAPPENED = {
    "queue_grows_at": "the queue grows at {} at once",
    "cache_full_at": "the KV cache is full at {} at once",
    "ttft_broken_at": "TTFT is over its limit at {} at once",
    "tpot_broken_at": "TPOT is over its limit at {} at once",
    "failed_at": "requests fail at {} at once",
    "throughput_flat_from": "beyond {} at once, more requests bring little more throughput",
}


def server_text(found: Any) -> str:
    """Who it is, plan against server, the load and what happened, what to run."""
    blocks = [_head(found)]
    if found.rows:
        blocks.append(_rows(found))
    if found.load is not None:
        blocks.append(_load(found))
    blocks += recommended(found)
    if found.calibration is not None:
        blocks.append(f"learnt for {found.calibration.device}: later plans on this card use it")
    not_told = "\n".join(
        f"  {line}" for text in found.facts.not_told for line in textwrap.wrap(text, _WIDTH - 2)
    )
    return "\n\n".join((*blocks, f"it does not tell:\n{not_told}", _verdict(found)))


def _head(found: Any) -> str:
    facts = found.facts
    words = [f"{facts.title} {facts.version or ''}".strip() + f" at {found.url}", facts.model]
    if facts.context is not None:
        words.append(f"requests of up to {facts.context:,} tokens")
    if facts.kv_cache_tokens is not None:
        words.append(f"cache of {facts.kv_cache_tokens:,} tokens")
    if facts.seats is not None:
        words.append(f"{facts.seats:,} at once")
    if facts.vram_bytes is not None:
        words.append(f"{format_gib(facts.vram_bytes)} GiB on GPUs")
    return "\n".join((" · ".join(words), f"now: {_now(found.now)}"))


def _now(now: Any) -> str:
    if now.running is None:
        return "it does not tell how busy it is"
    words = [f"{now.running:g} running"]
    if now.waiting is not None:
        words.append(f"{now.waiting:g} waiting")
    if now.usage is not None:
        words.append(f"{now.usage:.1%} of the cache in use")
    return ", ".join(words)


def _rows(found: Any) -> str:
    return _table(
        [
            [
                row.name,
                _figure(row.planned, row.unit),
                _figure(row.served, row.unit),
                f"{row.error:+.2%}",
                ("held" if row.holds(found.tolerance) else "NOT HELD") if row.judged else "shown",
                row.how,
            ]
            for row in found.rows
        ],
        ["", "planned", "served", "error", "", "how"],
        ("left", "right", "right", "right", "left", "left"),
    )


def _load(found: Any) -> str:
    ask = found.load.ask
    rows = [
        [
            step.batch,
            step.done,
            *_latencies(step.ttft_s),
            *_latencies(step.tpot_s),
            "" if step.tokens_per_s is None else f"{step.tokens_per_s:,.1f}",
            _plain(step.running_most),
            _plain(step.waiting_most),
            "" if step.usage_most is None else f"{step.usage_most:.0%}",
        ]
        for step in found.load.steps
    ]
    table = _table(
        rows,
        ["at once", "done", "TTFT s", "p90", "TPOT s", "p90", "tokens/s", "running", "waiting", "cache"],
        ("right",) * 10,
    )
    prompts = [step.prompt_tokens for step in found.load.steps if step.prompt_tokens is not None]
    sent = (
        f"{sum(prompts) / len(prompts):,.0f} tokens"
        if prompts
        else f"{ask.prompt_tokens:,} words (not counted)"
    )
    told = [words.format(found.findings[name]) for name, words in _HAPPENED.items() if found.findings[name]]
    lines = (
        f"load: prompts of {sent}, answers of {ask.output_tokens:,}",
        table,
        *told,
        f"stopped: {found.load.stopped}",
    )
    return "\n".join((*lines, *_cause(found)))


def _cause(found: Any) -> tuple[str, ...]:
    """Why a queue grew: all seats taken while the cache had room, or no room in the cache."""
    at = found.findings["queue_grows_at"]
    step = next((step for step in found.load.steps if step.batch == at), None)
    if step is None or step.usage_most is None or step.running_most is None:
        return ()
    if "cache" in step.broke:
        return ("the cache was full: requests waited for memory",)
    return (
        (
            f"{step.running_most:g} ran at once with {step.usage_most:.0%} of the cache in use: requests waited for seats, "
            "not for memory"
        ),
    )


def _verdict(found: Any) -> str:
    if found.held is None:
        return "nothing here could be judged against a plan"
    if found.held:
        return f"the plan held within {found.tolerance:.0%}"
    missed = ", ".join(f"{row.name} {row.error:+.1%}" for row in found.rows if not row.holds(found.tolerance))
    return f"the plan did not hold within {found.tolerance:.0%}: {missed}"


def _latencies(found: tuple[float, float, float] | None) -> tuple[str, str]:
    return ("", "") if found is None else (f"{found[0]:.3f}", f"{found[1]:.3f}")


def _figure(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"
    return f"{number} {unit}".strip()


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _table(rows: Iterable[Any], headers: list[str], align: tuple[str, ...]) -> str:
    return tabulate(rows, headers=headers, tablefmt="plain", disable_numparse=True, colalign=align)
