"""A plan as the table that people read. Not a promise: the JSON is."""

from __future__ import annotations

from textwrap import fill, shorten
from typing import TYPE_CHECKING

from tabulate import tabulate

from vram_planner.units import format_count, format_gib

if TYPE_CHECKING:
    from vram_planner.basis import Part
    from vram_planner.planning.performance import Band
    from vram_planner.planning.plan import Candidate, MemoryPlan
    from vram_planner.planning.ways_out import WayOut

_WIDTH = 100
_SHOWN_CANDIDATES = 6
_WHOLE = 10  # tokens a second from which no decimals are shown
_LABELS = {
    "kv_cache": "KV cache",
    "cuda_graphs": "CUDA graphs",
    "compute_buffer": "compute buffer",
    "recurrent_state": "recurrent state",
    "draft_model": "draft model",
    "draft_kv_cache": "its KV cache",
    "draft_compute_buffer": "its compute buffer",
    "vision_projector": "vision projector",
    "lora": "LoRA slots",
}


def plan_table(plan: MemoryPlan, ways: tuple[WayOut, ...] = ()) -> str:
    """The whole answer: what was understood, the parts, the card or the candidates, how to start it."""
    blocks = [headline(plan), _parts(plan)]
    blocks += [_verdict(plan), _logged(plan), _ways(ways)] if plan.gpu else [_candidates(plan)]
    blocks += [_notes(plan), f"next: {plan.launch}"]
    return "\n\n".join(block for block in blocks if block)


def headline(plan: MemoryPlan) -> str:
    """What was understood, in one line."""
    model, request = plan.model, plan.request
    short = model.name.rsplit("/", 1)[-1]
    alias = (
        "" if model.resolved_from.rsplit("/", 1)[-1].lower() == short.lower() else f" ({model.resolved_from})"
    )
    requests = "request" if request["concurrency"] == 1 else "requests"
    return (
        f"{short}{alias} · {format_count(model.architecture.parameters)} parameters"
        f" in {model.precision.name} · {plan.engine_title} · "
        f"{request['concurrency']:,} {requests} of {request['ctx']:,} tokens"
    )


def _parts(plan: MemoryPlan) -> str:
    rows = [
        [label(part), format_gib(part.n_bytes), _band(part.low, part.high), part.basis.value]
        for part in plan.parts
    ]
    rows.append(["needed", format_gib(plan.total_bytes), _band(plan.low_bytes, plan.high_bytes), ""])
    title = "per GPU" if plan.request["gpu_count"] == 1 else "fullest GPU"
    text = tabulate(
        rows,
        headers=[title, "GiB", "low-high", "how it is known"],
        tablefmt="plain",
        colalign=("left", "right", "left", "left"),
        disable_numparse=True,
    )
    lines = text.splitlines()
    details = ["", *(part.detail.split(": ")[0] for part in plan.parts), ""]
    room = _WIDTH - max(len(line) for line in lines) - 2
    width = max(len(line) for line in lines)
    return "\n".join(
        f"{line:<{width}}  {shorten(detail, room, placeholder=' …')}".rstrip()
        for line, detail in zip(lines, details, strict=True)
    )


def label(part: Part) -> str:
    """A part's name as people say it."""
    return _LABELS.get(part.name, part.name)


def _band(low: int, high: int) -> str:
    if low == high:
        return ""
    return f"{format_gib(low)}-{format_gib(high)}"


def _verdict(plan: MemoryPlan) -> str:
    gpu, capacity, room = plan.gpu, plan.capacity, plan.headroom_bytes
    if gpu is None or capacity is None or room is None:
        return ""
    each, apiece = ("", "") if gpu.count == 1 else (" on each GPU", " each")
    told = {
        "fits": f"fits: {format_gib(room)} GiB to spare{each}",
        "may fit": (
            f"may fit: {format_gib(room)} GiB to spare{each} by the best estimate, not by the highest"
            if room >= 0
            else f"may fit, but the best estimate is {format_gib(-room)} GiB short{each}"
        ),
        "does not fit": f"does not fit: {format_gib(-room)} GiB short{each}",
    }[plan.verdict or "fits"]
    blocks = f"{capacity.num_blocks:,} blocks, " if capacity.num_blocks is not None else ""
    ctx, asked = plan.request["ctx"], plan.request["concurrency"]
    longest = f"{capacity.max_context:,} tokens" if capacity.max_context else "none"
    return "\n".join(
        (
            told,
            f"  card       {gpu.count} × {gpu.name}, {format_gib(gpu.total_bytes)} GiB{apiece} ({gpu.total_basis})",
            *_servers(plan),
            _line("budget", f"{format_gib(gpu.usable_bytes)} GiB = {capacity.rule}"),
            f"  KV room    {format_gib(capacity.kv_pool_bytes)} GiB: {blocks}{capacity.kv_cache_tokens:,} tokens",
            f"  at once    {capacity.max_concurrency:.2f} requests of {ctx:,} tokens{_each_replica(plan)}",
            f"  longest    {longest} for {asked:,} at once",
            *_speed(plan),
            *_recommended(plan),
        )
    )


def _each_replica(plan: MemoryPlan) -> str:
    return f" on each of {plan.request['dp']} replicas" if plan.request["dp"] > 1 else ""


def _servers(plan: MemoryPlan) -> list[str]:
    """How the cards stand, where they do not stand in one server."""
    if plan.request["gpu_count"] == 1 or (plan.layout.nodes or 1) == 1:
        return []
    layout = plan.layout
    inside = f"{layout.inside} inside, " if layout.inside else ""
    return [_line("servers", f"{layout.nodes} of {layout.per_node}: {inside}{layout.between} between")]


def _logged(plan: MemoryPlan) -> str:
    """What the engine itself will print of memory as it starts, or the error with which it will not, word for word."""
    lines = plan.capacity.log_lines if plan.capacity else ()
    if not lines:
        return ""
    if "Error: " in lines[-1]:
        return f"{_title(plan)} will not start:\n{_quoted(lines[-1])}"
    return "\n".join((f"{_title(plan)} will log:", *map(_quoted, lines)))


def _title(plan: MemoryPlan) -> str:
    return plan.engine_title.partition(" ")[0]


def _quoted(line: str) -> str:
    return fill(line, width=_WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _speed(plan: MemoryPlan) -> list[str]:
    found = plan.performance
    if found is None:
        return []
    user, total = found.per_user_tokens_per_s, found.output_tokens_per_s
    words = (
        f"{_about(user.best)} tokens/s per user ({_about(user.low)}-{_about(user.high)}), "
        f"{_about(total.best)} in all; first token in {_seconds(found.ttft_s)}; bound by {found.bound_by}"
    )
    return [_line("speed", words)]


def _recommended(plan: MemoryPlan) -> list[str]:
    """How many to let in, what bounds it, and the engine's options for it."""
    found = plan.recommendation
    if found is None or not found.concurrency:
        return []
    each = _each_replica(plan)
    return [
        _line("recommend", f"{found.concurrency:,} at once{each}, bound by {found.bound_by}: {found.flags}")
    ]


def _about(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= _WHOLE else f"{rate:.1f}"


def _seconds(band: Band) -> str:
    digits = 1 if band.low >= 1 else 2
    return f"{band.best:.{digits}f} s ({band.low:.{digits}f}-{band.high:.{digits}f})"


def _line(name: str, words: str) -> str:
    return fill(f"  {name:<10} {words}", width=_WIDTH, subsequent_indent=" " * 13, break_on_hyphens=False)


def _ways(ways: tuple[WayOut, ...]) -> str:
    if not ways:
        return ""
    rows = [
        [
            "try" if index == 0 else "",
            way.flags,
            way.plan.verdict,
            f"{way.plan.capacity.max_concurrency:.1f} at once" if way.plan.capacity else "",
            way.note,
        ]
        for index, way in enumerate(ways)
    ]
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _candidates(plan: MemoryPlan) -> str:
    found = plan.candidates[:_SHOWN_CANDIDATES]
    if not found:
        return "no card of the catalogue holds it, eight of a kind included: raise --tp and --pp, or quantise"
    rows = [_candidate_row(candidate) for candidate in found]
    table = tabulate(
        rows,
        headers=[
            "the smallest that hold it",
            "",
            f"at once @{plan.request['ctx']:,}",
            "tokens/s a user",
            "first in",
            "$/hour",
        ],
        tablefmt="plain",
        colalign=("left", "left", "right", "right", "right", "right"),
        disable_numparse=True,
    )
    unsure = any(candidate.verdict != "fits" for candidate in found)
    return f"{table}\n* may fit: by the best estimate, not by the highest" if unsure else table


def _candidate_row(candidate: Candidate) -> list[str]:
    layout = f"tp {candidate.tp}" if candidate.tp > 1 else ""
    cost = "" if candidate.cost_per_hour is None else f"{candidate.cost_per_hour:.2f}"
    unsure = "" if candidate.verdict == "fits" else " *"
    user = candidate.per_user_tokens_per_s
    return [
        f"  {candidate.count} × {candidate.gpu.removeprefix('NVIDIA ')}{unsure}",
        layout,
        f"{candidate.max_concurrency:.1f}",
        "" if user is None else f"{_about(user.best)} ({_about(user.low)}-{_about(user.high)})",
        "" if candidate.ttft_s is None else f"{candidate.ttft_s.best:.2f} s",
        cost,
    ]


def _notes(plan: MemoryPlan) -> str:
    if not plan.not_modelled:
        return ""
    return fill(
        f"not modelled: {', '.join(plan.not_modelled)}",
        width=_WIDTH,
        initial_indent="  ",
        subsequent_indent="    ",
        break_on_hyphens=False,
    )


def explain(plan: MemoryPlan) -> str:
    """Every part as its formula with the numbers filled in, and its source."""
    model, kv = plan.model, plan.kv
    weights_bytes = model.architecture.weights_bytes(model.precision)
    blocks = [
        headline(plan),
        (
            f"model  {model.name}, configuration: {model.source} ({model.provenance})\n"
            f"       {model.architecture.parameters:,} parameters,"
            f" {model.architecture.active_parameters:,} active,"
            f" {weights_bytes:,} B in {model.precision.name}"
        ),
        *map(_explain_part, plan.parts),
        (
            f"KV cache: {kv.bytes_per_token:,} B a token, {kv.bytes_per_request:,} B a request,"
            f" each byte on {kv.replicated_ranks} rank(s)"
        ),
    ]
    blocks.append(_explain_layout(plan))
    if plan.gpu and plan.capacity:
        blocks.append(
            f"card: {plan.gpu.total_bytes:,} B ({plan.gpu.total_basis}: {plan.gpu.total_detail})\n"
            f"budget: {plan.gpu.usable_bytes:,} B = {plan.capacity.rule}\n"
            f"KV pool: {plan.capacity.kv_pool_bytes:,} B"
        )
    blocks += [logged] if (logged := _logged(plan)) else []
    options = ", ".join(f"{name}={value}" for name, value in plan.request.items() if value is not None)
    blocks.append(fill(f"options: {options}", width=_WIDTH, subsequent_indent="  ", break_on_hyphens=False))
    return "\n\n".join(blocks)


def _explain_layout(plan: MemoryPlan) -> str:
    layout = plan.layout
    lines = [f"layout: tp {layout.tp} × pp {layout.pp} × dp {layout.dp}"]
    lines += [f"  shared out: {', '.join(layout.shards)}"] if layout.shards else []
    lines += [f"  copied: {', '.join(layout.replicates)}"] if layout.replicates else []
    if layout.nodes is not None and plan.request["gpu_count"] > 1:
        between = f"; {layout.between} between" if layout.between else ""
        lines.append(
            f"  servers: {layout.nodes} of {layout.per_node}, {layout.inside or 'one card each'} inside{between}"
        )
    lines.append(f"  valid tp: {', '.join(map(str, layout.valid_tp))}; pp up to {layout.most_pp}")
    return "\n".join(fill(line, width=_WIDTH, subsequent_indent="    ") for line in lines)


def _explain_part(part: Part) -> str:
    band = "" if part.low == part.high else f" (from {part.low:,} to {part.high:,} B)"
    outside = part.n_bytes != part.budgeted_bytes
    budget = f", {part.budgeted_bytes:,} B of it in the budget" if outside else ""
    return (
        f"{label(part)} = {part.n_bytes:,} B{band}{budget}\n"
        f"  {part.basis.value}: {part.detail}\n"
        f"  source: {part.source}"
    )
