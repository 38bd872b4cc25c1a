"""A simulation as people read it: the traffic, the percentiles, the cache by expected and worst, and what binds."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

from tabulate import tabulate

from vram_planner.planning.simulated import percent
from vram_planner.units import format_gib

if TYPE_CHECKING:
    from vram_planner.planning.simulated import Measure, Simulation

_WIDTH = 100
_NAMES = {
    "ttft_s": "first token s",
    "tpot_s": "each further ms",
    "stay_s": "whole answer s",
    "queue_s": "of it waiting s",
}
_LIMITS = {"ttft_s": "first token", "tpot_s": "each further token"}
_MS = 1000.0
_FEW = 5


def simulation_table(found: Simulation) -> str:
    """The whole answer."""
    return "\n\n".join(
        (
            _headline(found),
            _figures(found, "plain"),
            _kv(found),
            _verdict(found),
            _left_out(found),
            _next(found),
        )
    )


def simulation_markdown(found: Simulation) -> str:
    """The percentiles as a Markdown table between what was asked and what binds."""
    return "\n\n".join(
        (
            _headline(found),
            _figures(found, "github"),
            _kv(found),
            _verdict(found),
            _left_out(found),
            _next(found),
        )
    )


def _headline(found: Simulation) -> str:
    request, plan = found.request, found.plan
    lengths = request.lengths
    count = plan.gpu.count if plan.gpu else 1
    name = plan.gpu.name if plan.gpu else request.gpu
    bunches = "" if request.burstiness == 1 else f" in bunches (burstiness {request.burstiness:g})"
    arrivals = (
        f"{request.rate:g} requests a second at random{bunches}"
        if request.rate is not None
        else f"{request.users:,} users, {request.think_s:g} s on average between an answer and the next request"
    )
    lines = [
        f"{plan.model.name} in {plan.model.precision.name} on {plan.engine_title}, {count} × {name}",
        f"{arrivals}; prompts {lengths.prompt}, outputs {lengths.output} tokens, at most {request.longest:,} together",
        f"workload {lengths.name} ({lengths.basis}): {lengths.source}"
        + (f"; {request.hit:.0%} of each prompt found in the prefix cache" if request.hit else ""),
        (
            f"{request.runs} independent runs of {request.requests:,} requests after a warm-up, seed {request.seed};"
            f" max_num_seqs {found.rules.seats:,}, {found.rules.budget:,} tokens a step"
        ),
    ]
    if found.rules.outlook or found.rules.reserves:
        lines.append(
            f"room is kept for outputs of up to {request.limit:,} tokens, as clients ask for (--max-tokens)"
        )
    if found.replicas > 1:
        lines.append(f"{found.replicas} replicas with an even share each; what follows is one of them")
    return "\n".join(_wrapped(line) for line in lines)


def _figures(found: Simulation, style: str) -> str:
    shares = list(next(iter(found.figures.values())).quantiles)
    headers = [
        "",
        "mean",
        *(percent(share) for share in shares),
        f"slow {percent(found.request.percentile / 100)}",
    ]
    rows = [
        [
            title,
            _figure(measure, None, scale),
            *(_figure(measure, share, scale) for share in shares),
            _number(found.at(name, slower=True) * scale),
        ]
        for name, title in _NAMES.items()
        for measure, scale in ((found.figures[name], _MS if title.endswith("ms") else 1.0),)
    ]
    table = tabulate(
        rows, headers=headers, tablefmt=style, disable_numparse=True,
        colalign=("left", *("right" for _ in headers[1:])),
    )  # fmt: skip
    legend = "± half of a 95 % confidence interval over the runs; slow: steps as slow as the low end of the speed model's band has them"
    return f"{table}\n{_wrapped(legend)}"


def _figure(measure: Measure, share: float | None, scale: float) -> str:
    value = measure.mean if share is None else measure.quantiles[share]
    error = measure.mean_error if share is None else measure.errors[share]
    shown = _number(value * scale)
    return shown if error is None else f"{shown} ±{_number(error * scale)}"


def _number(value: float) -> str:
    digits = 0 if value >= 99.5 else 1 if value >= 9.95 else 2 if value >= 0.0995 else 3  # noqa: PLR2004  three digits
    return f"{value:,.{digits}f}"


def _kv(found: Simulation) -> str:
    kv = found.kv
    lines = [
        f"{'':<10} {'tokens':>10} {'GiB':>8} {'blocks':>8} {'at once':>8} {'of those in flight':>19}",
        *(
            f"{name:<10} {tokens:>10,.0f} {format_gib(round(size)):>8} {'' if blocks is None else f'{blocks:,.0f}':>8}"
            f" {at_once:>8,.1f} {format_gib(round(size * kv.in_flight)):>15} GiB"
            for name, tokens, size, blocks, at_once in (
                ("expected", kv.tokens_expected, kv.bytes_expected, kv.blocks_expected, kv.at_once_expected),
                ("at worst", kv.tokens_worst, kv.bytes_worst, kv.blocks_worst, kv.at_once_worst),
            )
        ),
    ]
    pool = "each request has a slot of full context"
    if kv.pool_bytes is not None:
        blocks = "" if kv.blocks is None else f", {kv.blocks:,} blocks of {kv.block_tokens:,} tokens"
        pool = f"the cache has {format_gib(round(kv.pool_bytes))} GiB{blocks}"
        pool += f"; {found.kv_mean or 0:.0%} in use on average, {found.kv_peak or 0:.0%} at the peak"
    return "KV cache of a request\n" + "\n".join(lines) + "\n" + _wrapped(pool)


def _verdict(found: Simulation) -> str:
    cut = f"; {found.cut:,} answers were cut at the context" if found.cut else ""
    if found.refused:
        cut += f"; {found.refused:,} more requests were refused, for their prompts leave no room in it for an answer"
    lines = [
        (
            f"{found.requests_per_s:.3g} requests/s, {found.output_tokens_per_s:,.0f} tokens/s; {found.in_flight:.1f} in"
            f" flight, {found.running:.1f} of them running; busy {found.busy:.0%} of the time"
        ),
        f"{found.bound_by} binds; {found.preemptions:,} preemptions in {found.requests:,} requests{cut}",
    ]
    few = [share for share in found.figures["ttft_s"].quantiles if (1 - share) * found.requests < _FEW]
    if few:
        names = " and ".join(percent(share) for share in few)
        lines.append(f"{names}: fewer than {_FEW} requests lie beyond; more --requests tell them better")
    if not found.keeps_up:
        lines.append("requests come faster than they are served: the waits grow for as long as this goes on")
    for name, (limit, best, slow) in found.limits().items():
        word = "holds" if slow <= limit else "holds by the best estimate, not with the slow steps"
        if best > limit:
            word = "is broken"
        lines.append(
            f"{_LIMITS[name]} within {_time(limit)} for {found.request.percentile:g} %: {word}"
            f" ({_time(best)}, slow {_time(slow)})"
        )
    return "\n".join(_wrapped(line) for line in lines)


def _time(seconds: float) -> str:
    return f"{seconds * _MS:.3g} ms" if seconds < 1 else f"{_number(seconds)} s"


def _left_out(found: Simulation) -> str:
    return _wrapped(f"not modelled: {'; '.join(found.not_modelled)}")


def _next(found: Simulation) -> str:
    return f"next: {found.plan.launch}"


def _wrapped(words: str) -> str:
    return fill(words, width=_WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
