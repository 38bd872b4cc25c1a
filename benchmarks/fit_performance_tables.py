"""What fit_performance.py says of its errors, the bands that follow from them, and the files that it writes."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vram_planner.planning import performance_constants as stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_FILES = Path(stored.__file__).parent / "constants"
_BANDS = {
    "TTFT": "ttft",
    "prefill": "ttft",
    "TPOT": "tpot",
    "throughput": "throughput",
    "saturated": "throughput",
}
_INSIDE = 0.88  # of the left-out rows of a class that its band is to hold
_ENOUGH = 15  # rows of a class that tell a band; with fewer it is that of all engines of its kind,
_LEAST = 1.1  # no band is narrower
_A_FEW = 4  # or wider, where so many say so
_METHOD = (
    "log errors, Student-like weights beyond 20 %, n rows of a source, kind and figure weigh as the root of n; terms shared by"
    " vLLM, SGLang and TensorRT-LLM for cards, kernels and links, all drawn to the level above; rows of quality A and B"
)


@dataclass(frozen=True, kw_only=True)
class Error:
    """Log of predicted over measured on one figure: with its row in the fit, and with its source left out."""

    engine: str
    kind: str
    band: str  # class of its band
    figure: str
    source: str
    setting: str
    fitted: float
    left_out: float
    known: bool  # whether other sources measured the same engine, generation and kind


def score(values: Iterable[float]) -> dict[str, float]:
    """Count, median and 90th percentile of relative errors."""
    sizes = sorted(abs(math.expm1(value)) for value in values)
    return {
        "n": len(sizes),
        "median": round(statistics.median(sizes), 3),
        "p90": round(sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))], 3),
    }


def show(errors: list[Error]) -> str:
    """Both tables side by side, of each engine and of all, and how many left-out rows the bands hold."""
    groups: dict[tuple[str, str, str], list[Error]] = {}
    for error in errors:
        groups.setdefault((error.engine, error.figure, error.kind), []).append(error)
        groups.setdefault(("~ all engines", *_pooled(error)), []).append(error)
    lines = [f"{'class':38}{'n':>5}{'sources':>9}{'fitted':>17}{'left out':>19}{'in band':>9}"]
    bands = {engine: bands_of(engine, errors) for engine in {error.engine for error in errors}}
    for key, found in sorted(groups.items()):
        inside, outside = score(e.fitted for e in found), score(e.left_out for e in found)
        held = statistics.mean(_holds(bands[e.engine], e) for e in found)
        lines.append(
            f"{' '.join(key).removeprefix('~ '):38}{len(found):5}{len({e.source for e in found}):9}"
            f"{inside['median']:9.1%}{inside['p90']:8.0%}{outside['median']:11.1%}{outside['p90']:8.0%}{held:9.0%}"
        )
    total = statistics.mean(_holds(bands[error.engine], error) for error in errors)
    lines.append(f"left-out rows inside their bands: {total:.1%} of {len(errors)}")
    return "\n".join(lines)


def _pooled(error: Error) -> tuple[str, str]:
    """A bare prompt is a first token; one card with a dense model, or more of either."""
    figure = "TTFT" if error.figure == "prefill" else error.figure
    return figure, "dense" if error.kind == "dense" else "several or experts"


def _holds(bands: Mapping[str, list[float]], error: Error) -> bool:
    figure = _BANDS[error.figure]
    low, high = stored.chosen(bands, figure, error.band, known=error.known)
    return low <= math.exp(-error.left_out) <= high


def bands_of(engine: str, errors: list[Error]) -> dict[str, list[float]]:
    """
    Factors from the predicted to the low and high end, from rows that the fit did not see.

    A class that other sources measured on the same generation, and ("new") one that nobody else did, which is
    never narrower. Both ends are as far off, for which way a new source differs is not known. Where an engine has too few such rows, those of all engines in its group tell.
    """
    found: dict[str, list[float]] = {}
    for figure in ("ttft", "tpot", "throughput"):
        of = [error for error in errors if _BANDS[error.figure] == figure]
        for kind in ("dense", "several", "experts", "host", "waiting"):
            here = [error for error in of if error.band == kind]
            near = [error for error in here if error.engine == engine]
            own = _interval(_pick([e.left_out for e in x if e.known] for x in (near, here, of)))
            if len(near) >= _ENOUGH:
                own = _union(own, _interval([error.fitted for error in near]))
            elif len(near) >= _A_FEW:
                own = _union(own, _interval([error.left_out for error in near]))
            new = _interval(_pick([e.left_out for e in x if not e.known] for x in (near, here, of)))
            found[f"{figure}, {kind}"] = own
            found[f"{figure}, {kind}, new"] = _union(own, new)
    counts = {(_BANDS[e.figure], e.band) for e in errors if e.engine == engine}
    for kind in ("dense", "several", "experts", "host", "waiting"):
        for here, there in (("tpot", "throughput"), ("throughput", "tpot")):
            if (here, kind) not in counts and (there, kind) in counts:
                # Nobody measured the one: it is known as well as the other, of which it is the inverse.
                for end in ("", ", new"):
                    low, high = found[f"{there}, {kind}{end}"]
                    found[f"{here}, {kind}{end}"] = [round(1 / high, 3), round(1 / low, 3)]
    return found


def _pick(choices: Iterable[list[float]]) -> list[float]:
    found: list[float] = []
    for found in choices:
        if len(found) >= _ENOUGH:
            break
    return found


def _interval(values: list[float]) -> list[float]:
    ordered = sorted(map(abs, values))
    most = max(math.exp(_quantile(ordered, _INSIDE)), _LEAST)
    return [round(1 / most, 3), round(most, 3)]


def _quantile(ordered: list[float], share: float) -> float:
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def _union(one: list[float], other: list[float]) -> list[float]:
    return [min(one[0], other[0]), max(one[1], other[1])]


def document(
    engine: str, errors: list[Error], base: dict[str, float], factors: dict[str, Any]
) -> dict[str, Any]:
    """The file of an engine as stored, with its constants, errors and bands renewed."""
    path = _FILES / f"{engine}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    own = [error for error in errors if error.engine == engine]
    classes = sorted({(error.figure, error.kind) for error in own})
    found["fit"] = {
        "method": _METHOD,
        "script": "benchmarks/fit_performance.py",
        "rows": len(own),
        "in_sample": {
            f"{f} {k}": score(e.fitted for e in own if (e.figure, e.kind) == (f, k)) for f, k in classes
        },
        "held_out_by_source": {
            f"{f} {k}": score(e.left_out for e in own if (e.figure, e.kind) == (f, k)) for f, k in classes
        },
    }
    found["sources"] = sorted({error.source for error in own})
    found["settings"] = sorted({error.setting for error in own})
    found["base"], found["factors"] = base, factors
    found["bands"] = bands_of(engine, errors)
    return found


def write(found: dict[str, Any]) -> None:
    """Store a file of constants."""
    path = _FILES / f"{found['engine']}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
