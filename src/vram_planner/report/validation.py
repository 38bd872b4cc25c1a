"""What a shadow or a live run found, as text. Results come as the plain values that `validate` made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from vram_planner.units import format_gib

if TYPE_CHECKING:
    from collections.abc import Iterable


def shadow_text(found: Any) -> str:
    """The plan beside the engine's own code, the moment that sets the size, and what is not in it."""
    request, peak = found.request, found.peak
    head = (
        f"{found.model} · {found.engine} {found.versions['transformers']}, torch {found.versions['torch']}, no GPU · "
        f"{request['concurrency']} × {request['ctx']:,} tokens, {request['prompt_tokens']:,} of them prompt · "
        f"{request['dtype']}, {request['attn']}"
    )
    categories = sorted(peak.by_category.items(), key=lambda item: -item[1])
    shares = tabulate(
        [[name, f"{size:,}", format_gib(size)] for name, size in categories],
        headers=[f"alive at the peak ({peak.name})", "bytes", "GiB"],
        tablefmt="plain",
        disable_numparse=True,
        colalign=("left", "right", "right"),
    )
    blocks = (head, rows_text(found), f"{shares}\nat {peak.op}", *recommended(found))
    return "\n\n".join((*blocks, _not_covered(found.not_covered), _verdict(found)))


def recommended(found: Any) -> list[str]:
    """How many to let in, why, and the engine's options; nothing where nothing is recommended."""
    one = found.recommendation
    if one is None:
        return []
    return [
        f"recommended: {one.concurrency} at once (bound by {one.bound_by}): {one.why}\n{one.flags}".rstrip()
    ]


def asked_text(found: Any) -> str:
    """The plan beside what the engine's own process answered: bytes, then blocks, tokens and settings."""
    request = found.request
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    head = (
        f"{found.model} · {versions} · {request['concurrency']} × {request['ctx']:,} tokens · {found.where}"
    )
    counts = tabulate(
        [
            [
                row.name,
                _figure(row.planned),
                _figure(row.measured),
                f"{row.error:+.2%}",
                "held" if row.holds(found.tolerance) else "NOT HELD",
            ]
            for row in found.counts
        ],
        headers=["", "planned", "the engine's", "error", ""],
        tablefmt="plain",
        disable_numparse=True,
        colalign=("left", "right", "right", "right", "left"),
    )
    notes = ["\n".join(f"note: {line}" for line in found.notes)] if found.notes else []
    blocks = [head, rows_text(found), *([counts] if found.counts else []), *notes]
    return "\n\n".join((*blocks, *recommended(found), _not_covered(found.not_covered), _verdict(found)))


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def live_text(found: Any) -> str:
    """Stages, plan against measurement, the ramp, and what to run."""
    request = found.request
    head = (
        f"{found.model} · transformers {found.versions['transformers']}, torch {found.versions['torch']} on {found.device} · "
        f"{request['concurrency']} × {request['context']:,} tokens, {request['prompt']:,} of them prompt · "
        f"{request['dtype']}, {request['attn']}"
    )
    blocks = [head, *_gpus(found), _stages(found.stages), *_stages_by_card(found), rows_text(found)]
    if found.ramp is not None:
        blocks.append(_ramp(found.ramp))
    blocks += recommended(found)
    if found.left_behind_bytes:
        blocks.append(f"left on the device: {found.left_behind_bytes:,} B more than before")
    return "\n\n".join((*blocks, _not_covered(found.not_covered), _verdict(found)))


def each_text(found: Any) -> str:
    """The same of each GPU, one after the other, then those that could not be measured."""
    blocks = [f"GPU {gpu}\n\n{live_text(one)}" for gpu, one in found.runs]
    blocks += [f"GPU {one.gpu}\n\nnot measured: {one.message}; {one.hint}" for one in found.missed]
    return "\n\n".join(blocks)


def _gpus(found: Any) -> tuple[str, ...]:
    """What NVML says of each of several GPUs, its layers, and what was left on it."""
    if not found.cards:
        return ()
    rows = [
        [
            card.index,
            card.name,
            _mib(facts["total_bytes"]),
            _mib(facts["free_bytes"]),
            _mib(card.max_memory_bytes),
            "" if facts["other_processes"] is None else facts["other_processes"],
            card.planned_layers,
            "" if card.layers is None else card.layers,
            _mib(card.left_behind_bytes),
        ]
        for card, facts in zip(found.cards, found.facts["gpus"], strict=True)
    ]
    heads = [
        "GPU",
        "MiB on",
        "total",
        "free",
        "for weights",
        "others",
        "layers planned",
        "found",
        "left behind",
    ]
    table = tabulate(
        rows,
        headers=heads,
        tablefmt="plain",
        disable_numparse=True,
        colalign=("right", "left", *("right",) * (len(heads) - 2)),
    )
    return (f"{table}\ndriver {found.facts['driver']}; no MIG slices; layers dealt out by device_map",)


def _stages_by_card(found: Any) -> tuple[str, ...]:
    """The stages of each of several GPUs."""
    return tuple(
        f"GPU {card.index}\n{_stages(stage.cards[number] for stage in found.stages)}"
        for number, card in enumerate(found.cards)
    )


def rows_text(found: Any) -> str:
    """Part by part: planned, measured, error."""
    return tabulate(
        [
            [
                row.name,
                f"{row.planned_bytes:,}",
                f"{row.measured_bytes:,}",
                f"{row.error:+.2%}",
                ("held" if row.holds(found.tolerance) else "NOT HELD") if row.judged else "shown",
                row.how,
            ]
            for row in found.rows
        ],
        headers=["part", "planned B", "measured B", "error", "", "measured how"],
        tablefmt="plain",
        disable_numparse=True,
        colalign=("left", "right", "right", "right", "left", "left"),
    )


def _stages(stages: Iterable[Any]) -> str:
    names = (
        "allocated_bytes",
        "allocated_peak_bytes",
        "reserved_peak_bytes",
        "process_bytes",
        "process_peak_bytes",
        "device_bytes",
    )
    rows = [[stage.name, *(_mib(getattr(stage, name)) for name in names)] for stage in stages]
    return tabulate(
        rows,
        headers=["MiB at", "torch", "its peak", "reserved", "process", "its peak", "device"],
        tablefmt="plain",
        disable_numparse=True,
        colalign=("left", *("right",) * len(names)),
    )


def _ramp(ramp: Any) -> str:
    rows = [
        [
            step.batch,
            step.ended.value if step.ended.value == "ran" else f"{step.ended.value} {step.note}".strip(),
            _mib(step.peak_bytes),
            _seconds(step.ttft_s),
            _seconds(step.tpot_s),
            "" if step.tokens_per_s is None else f"{step.tokens_per_s:,.1f}",
        ]
        for step in ramp.steps
    ]
    table = tabulate(
        rows,
        headers=["at once", "", "peak MiB", "TTFT s", "TPOT s", "tokens/s"],
        tablefmt="plain",
        disable_numparse=True,
        colalign=("right", "left", "right", "right", "right", "right"),
    )
    usable = f"{_mib(ramp.limits.usable_bytes)} MiB usable of {_mib(ramp.limits.limit_bytes)}"
    return f"{table}\n{usable}; stopped: {ramp.stopped}"


def _mib(n_bytes: int | None) -> str:
    return "" if n_bytes is None else f"{n_bytes / (1 << 20):,.1f}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _not_covered(lines: Iterable[str]) -> str:
    return "not covered:\n" + "\n".join(f"  {line}" for line in lines)


def _verdict(found: Any) -> str:
    if found.held:
        return f"the plan held within {found.tolerance:.0%}"
    judged = (*found.rows, *getattr(found, "counts", ()))
    missed = [f"{row.name} {row.error:+.1%}" for row in judged if not row.holds(found.tolerance)]
    missed += [
        f"{card.layers} layers on GPU {card.index}, {card.planned_layers} planned"
        for card in getattr(found, "cards", ())
        if not card.as_planned
    ]
    return f"the plan did not hold within {found.tolerance:.0%}: {', '.join(missed)}"
