"""What a fleet said, as one table: a row a device, with the nodes that were lost."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from vram_planner.units import format_gib

_RIGHT = frozenset({"free GiB", "of", "planned GiB", "measured GiB", "at once"})


def fleet_text(found: Any) -> str:
    """One table, then why anything is missing and what to do, then the verdict."""
    alike = _alike(found.nodes)
    blocks = [
        _head(found, alike),
        _table(found, with_packages=alike is None),
        _missing(found),
        _verdict(found),
    ]
    return "\n\n".join(block for block in blocks if block)


def _head(found: Any, alike: str | None) -> str:
    count = f"{len(found.nodes)} node{'' if len(found.nodes) == 1 else 's'}"
    what = "what they have"
    if found.model is not None:
        ctx = found.asked.get("ctx")
        tokens = "" if ctx is None else f", {ctx:,} tokens"
        what = f"{found.model}{tokens}, live on {found.asked['device']}"
    head = f"{count} of the Ray {found.ray} cluster at {found.address} · {what}"
    return f"{head}\non each: {alike}" if alike else head


def _alike(nodes: Any) -> str | None:
    """The packages, where all nodes that told them have the same; else None, and the table has a column."""
    told = {_packages(node) for node in nodes if node.packages}
    if len(told) > 1:
        return None
    return next(iter(told), "")


def _packages(node: Any) -> str:
    return ", ".join(f"{name} {version}" for name, version in node.packages.items())


def _table(found: Any, *, with_packages: bool) -> str:
    measured = found.model is not None
    headers = ["node", "device", "driver", "free GiB", "of"]
    headers += ["planned GiB", "measured GiB", "worst part", "", "at once"] if measured else []
    headers += ["engines"] if with_packages else []
    headers += ["note"]
    rows = []
    for node in found.nodes:
        for number, device in enumerate(node.devices or (None,)):
            cells = [node.name if not number else "", *_device(device), node.driver or ""]
            cells = [cells[0], cells[1], cells[4], cells[2], cells[3]]
            cells += _figures(device) if measured else []
            cells += [_packages(node) if not number else ""] if with_packages else []
            rows.append([*cells, _note(node, device, first=not number)])
    kept = [at for at, name in enumerate(headers) if name == "node" or any(row[at] for row in rows)]
    return tabulate(
        [[row[at] for at in kept] for row in rows],
        headers=[headers[at] for at in kept],
        tablefmt="plain",
        disable_numparse=True,
        colalign=tuple("right" if headers[at] in _RIGHT else "left" for at in kept),
    )


def _device(device: Any) -> tuple[str, str, str]:
    if device is None:
        return "", "", ""
    number = "" if device.index is None else f"{device.index} "
    return f"{number}{device.name}", _gib(device.free_bytes), _gib(device.total_bytes)


def _figures(device: Any) -> list[str]:
    """Planned and measured peak in GiB, the part that is furthest off, whether all held, how many at once."""
    if device is None or device.live is None:
        return [""] * 5
    planned, measured = (None, None) if device.peak is None else device.peak
    part, error = device.worst or ("", None)
    worst = f"{part} {error:+.2%}" if error is not None else f"{part} not seen" if part else ""
    at_once = "" if device.concurrency is None else str(device.concurrency)
    return [_gib(planned), _gib(measured), worst, "held" if device.held else "NOT HELD", at_once]


def _note(node: Any, device: Any, *, first: bool) -> str:
    """In a word; the reasons stand below."""
    if device is not None and device.live is not None:
        own = "" if not device.live["left_behind_bytes"] else f"left {device.live['left_behind_bytes']:,} B"
        return "; ".join(text for text in (own, *(node.notes if first else ())) if text)
    fault = node.fault if node.fault is not None else None if device is None else device.fault
    if fault is not None:
        return "lost" if fault.problem.startswith("lost") else "not measured" if node.devices else "no answer"
    skipped = node.skipped if device is None else device.skipped
    return "; ".join(text for text in (skipped, *(node.notes if first else ())) if text)


def _missing(found: Any) -> str:
    """Each node's reasons, and each cure once."""
    lines = []
    for node in found.failed:
        if node.fault is not None:
            lines.append(f"{node.name}: {node.fault.problem}")
        lines += [
            f"{node.name}, {'the CPU' if device.index is None else f'GPU {device.index}'}: {device.fault.problem}"
            for device in node.devices
            if device.fault is not None
        ]
    hints = dict.fromkeys(fault.hint for node in found.failed for fault in node.faults if fault.hint)
    return "\n".join((*lines, *(f"hint: {hint}" for hint in hints)))


def _verdict(found: Any) -> str:
    failed = ", ".join(node.name for node in found.failed)
    lacking = f"; no full answer from {failed}" if failed else ""
    if found.model is None:
        return f"{len(found.nodes) - len(found.failed)} of {len(found.nodes)} nodes answered{lacking}"
    if found.held is None:
        return f"nothing was measured{lacking}"
    held = sum(bool(device.held) for device in found.measured)
    return f"the plan held on {held} of {len(found.measured)} measured{lacking}"


def _gib(n_bytes: int | None) -> str:
    return "" if n_bytes is None else format_gib(n_bytes)
