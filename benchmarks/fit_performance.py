"""
Fit the constants of planning/performance_model.py to the records of measured speed, and say how far they carry.

    python benchmarks/fit_performance.py             # both tables: fitted rows, and rows of sources left out of the fit
    python benchmarks/fit_performance.py --write     # and write planning/constants/*.json
    python benchmarks/fit_performance.py --engines llama.cpp --by model    # one group; a fold leaves out a source's rows of a model

A constant is default × exp(a sum of terms): one for all engines, one for the engine, and by era, generation of
cards, kernels and link. Terms of vLLM, SGLang and TensorRT-LLM that describe cards and kernels are shared, with a smaller
term for each engine on top; each term is drawn to 0, so that what was never measured falls back to the level above.
Records of quality C are left out; one publisher is one source, in whatever engine it measured.
"""

from __future__ import annotations

import argparse
import math
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from fit_performance_rows import ALL, Row, Term, rows, start_of
from fit_performance_tables import Error, document, show, write

from vram_planner.planning.performance_model import Constants, Times, band_class, times

if TYPE_CHECKING:
    from collections.abc import Callable

# Engines that run the same kinds of kernels on the same cards share what is said of cards and kernels.
GROUPS = (("vllm", "sglang", "tensorrt-llm"), ("llama.cpp",), ("transformers",))
# How far a term is expected from 0, as a log.
WIDTHS = {
    "base": 0.3,
    "engine": 0.3,
    "era": 0.45,
    "generation": 0.25,
    "engine generation": 0.12,
    "kernels": 0.25,
    "engine kernels": 0.12,
    "link": 0.4,
    "machine": 0.4,
}
# When a scheduler takes in a new request is its own affair.
_LOOSE = {"first_steps": 1.5, "near_stream_s": 3.0, "first_s": 1.5}
LIMITS: dict[str, tuple[float, float]] = {
    "bandwidth_share": (0.2, 1.0),
    "cache_share": (0.1, 1.0),
    "compute_share": (0.02, 1.0),
    "decode_share": (0.1, 1.5),
    "attention_share": (0.005, 0.9),
    "expert_share": (0.15, 1.0),
    "expert_compute": (0.05, 1.2),
    "link_share": (0.05, 1.0),
    "layer_s": (1e-6, 2e-3),
    "eager_layer_s": (1e-6, 2e-3),
    "expert_layer_s": (1e-6, 2e-2),
    "step_s": (1e-5, 3e-2),
    "sequence_s": (1e-7, 3e-4),
    "hop_s": (1e-6, 5e-4),
    "first_s": (1e-4, 0.2),
    "queue": (0.1, 1.5),
    "first_steps": (0.05, 40),
    "near_share": (0.05, 1.5),
    "stream_s": (1e-7, 5e-4),
    "near_stream_s": (1e-6, 2e-3),
    "mixing": (0.1, 3),
    "room_share": (0.5, 1.0),
    "score_s": (0.0, 5e-9),
    "score_bytes": (0.0, 80.0),
    "expert_spread": (0.5, 1.0),
    "end_bytes": (0.0, 30.0),
}
_SIGMA = 0.10  # log error that a good model makes
_TAIL = 2.0  # beyond so many of it a row pulls no harder
_CROWD = 0.5  # n rows of one source, kind and figure weigh as n^(1 − this)
_STEP = 1e-3
_ROUNDS = 8
_NOTHING = 0.005  # a factor closer to 1 is left out


def constants_of(row: Row, fitted: dict[Term, float]) -> Constants:
    """What the terms make of each constant on this row."""
    values = {}
    for name, terms in row.terms.items():
        low, high = LIMITS[name]
        raw = getattr(start_of(row.engine), name) * math.exp(sum(fitted.get(term, 0.0) for term in terms))
        values[name] = min(high, max(low, raw))
    return Constants(**values)


def predicted(row: Row, constants: Constants) -> list[float]:
    """Log of predicted over measured, a figure each."""
    found: Times = times(row.work, row.card, constants, row.load)
    ours = row.case.predicted(found)
    return [math.log(ours[name] / theirs) for name, theirs in row.case.measured.items()]


def _slopes(row: Row, fitted: dict[Term, float]) -> tuple[list[float], dict[str, list[float]]]:
    constants = constants_of(row, fitted)
    here = predicted(row, constants)
    slopes = {}
    for name in ALL:
        there = predicted(row, replace(constants, **{name: getattr(constants, name) * (1 + _STEP)}))
        slope = [(b - a) / _STEP for a, b in zip(here, there, strict=True)]
        low, high = LIMITS[name]
        if any(slope) and low < getattr(constants, name) < high:
            slopes[name] = slope
        elif any(slope):
            slopes[name] = [0.3 * value for value in slope]  # at a limit: let it come back
    return here, slopes


def _weights(chosen: list[Row]) -> list[float]:
    crowd: dict[tuple[str, ...], int] = {}
    keys = [(row.engine, row.kind, row.source, figure) for row in chosen for figure in row.figures]
    for key in keys:
        crowd[key] = crowd.get(key, 0) + 1
    return [crowd[key] ** -_CROWD for key in keys]


def fit(
    chosen: list[Row], start: dict[Term, float] | None = None, rounds: int = _ROUNDS
) -> dict[Term, float]:
    """Terms by damped Gauss-Newton on log errors, with Student-like weights; priors draw each term to 0."""
    fitted = dict(start or {})
    weights = np.array(_weights(chosen))
    for _ in range(rounds):
        residuals: list[float] = []
        entries: list[tuple[int, Term, float]] = []
        for row in chosen:
            here, slopes = _slopes(row, fitted)
            for figure, value in enumerate(here):
                at = len(residuals)
                residuals.append(value)
                entries += [
                    (at, term, slope[figure])
                    for name, slope in slopes.items()
                    if slope[figure]
                    for term in row.terms[name]
                ]
        fitted = _move(fitted, np.array(residuals), entries, weights)
    return fitted


def _move(
    fitted: dict[Term, float],
    residuals: np.ndarray[Any, Any],
    entries: list[tuple[int, Term, float]],
    weights: np.ndarray[Any, Any],
) -> dict[Term, float]:
    names = sorted({term for _, term, _ in entries})
    index = {term: number for number, term in enumerate(names)}
    matrix = np.zeros((len(residuals), len(names)))
    for at, term, slope in entries:
        matrix[at, index[term]] += slope
    scaled = residuals / _SIGMA
    robust = weights / (1 + (scaled / _TAIL) ** 2)
    values = np.array([fitted.get(term, 0.0) for term in names])
    priors = np.array([(WIDTHS[term[0]] * _LOOSE.get(term[-1], 1.0)) ** -2 for term in names])
    left = matrix.T @ (matrix * (robust / _SIGMA**2)[:, None]) + np.diag(priors) * 1.0
    right = -matrix.T @ (residuals * robust / _SIGMA**2) - priors * values
    step = np.linalg.solve(left + np.diag(0.02 * np.diag(left)), right)
    step = np.clip(step, -0.4, 0.4)
    return {**fitted, **dict(zip(names, (values + step).tolist(), strict=True))}


Residual = tuple[Row, str, float]


def residuals_of(chosen: list[Row], fitted: dict[Term, float]) -> list[Residual]:
    """Row, figure and log error."""
    return [
        (row, figure, value)
        for row in chosen
        for figure, value in zip(row.figures, predicted(row, constants_of(row, fitted)), strict=True)
    ]


def _fold(group: int, unit: str, left_out: str) -> list[tuple[str, str, float]]:
    """Errors on the rows of one source, with constants that were fitted without it."""
    kept = [row for row in _shared[group] if _unit(row, unit) != left_out]
    known = {term for row in kept for terms in row.terms.values() for term in terms}
    # What only the rows left out tell is not known to the fold.
    start = {term: value for term, value in _starts[group].items() if term in known}
    fitted = fit(kept, start, rounds=5)
    gone = [row for row in _shared[group] if _unit(row, unit) == left_out]
    return [(row.id, figure, value) for row, figure, value in residuals_of(gone, fitted)]


def _unit(row: Row, unit: str) -> str:
    within = {"source": "", "card": row.case.served.gpu.name, "model": row.model}
    return f"{row.source} {within[unit]}"


_shared: list[list[Row]] = []
_starts: list[dict[Term, float]] = []


def held_out(unit: str) -> dict[tuple[str, str], float]:
    """(record, figure) -> log error of constants that were fitted without its source (or its source's card)."""
    found: dict[tuple[str, str], float] = {}
    with ProcessPoolExecutor(2) as pool:
        for group, chosen in enumerate(_shared):
            units = sorted({_unit(row, unit) for row in chosen})
            work: Callable[[str], list[tuple[str, str, float]]] = partial(_fold, group, unit)
            for errors in pool.map(work, units):
                found.update({(name, figure): value for name, figure, value in errors})
    return found


def errors_of(outside: dict[tuple[str, str], float]) -> list[Error]:
    """Each figure of each row with both of its errors."""
    sources: dict[tuple[str, str], set[str]] = {}
    for row in (row for chosen in _shared for row in chosen):
        sources.setdefault((row.engine, _setting(row)), set()).add(row.source)
    return [
        Error(
            engine=row.engine,
            kind=row.kind,
            band=_band(row, constants_of(row, fitted)),
            figure=figure,
            source=row.source,
            setting=_setting(row),
            fitted=value,
            left_out=outside[row.id, figure],
            known=len(sources[row.engine, _setting(row)]) > 1,
        )
        for chosen, fitted in zip(_shared, _starts, strict=True)
        for row, figure, value in residuals_of(chosen, fitted)
    ]


def _band(row: Row, constants: Constants) -> str:
    found = times(row.work, row.card, constants, row.load)
    return band_class(row.work, row.card, constants, row.kind, waits=found.waits)


def _setting(row: Row) -> str:
    return row.case.served.setting


def tables(engine: str, group: int) -> tuple[dict[str, float], dict[str, Any]]:
    """The terms of an engine multiplied out: its base values, and factors by era, generation, kernels and link."""
    fitted = _starts[group]
    start = start_of(engine)
    base = {
        name: _round(
            getattr(start, name)
            * math.exp(fitted.get(("base", name), 0.0) + fitted.get(("engine", engine, name), 0.0))
        )
        for name in ALL
    }
    factors: dict[str, Any] = {"era": {}, "generation": {}, "kernels": {}, "link": {}}
    for (table, *where, name), value in sorted(fitted.items()):
        if table in ("base", "engine") or (len(where) == 2 and where[0] != engine):  # noqa: PLR2004 - engine, key
            continue
        key = where[-1]
        kept = factors[table.removeprefix("engine ")].setdefault(key, {})
        kept[name] = kept.get(name, 0.0) + value
    for of in factors.values():
        for key, kept in of.items():
            of[key] = {name: _round(math.exp(value)) for name, value in kept.items() if abs(value) > _NOTHING}
    return base, {table: of for table, of in factors.items() if of}


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def main() -> None:
    """Fit, score, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write planning/constants/*.json")
    parser.add_argument(
        "--by", choices=("source", "card", "model"), default="source", help="what a fold leaves out"
    )
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=[name for group in GROUPS for name in group],
        help="their groups alone",
    )
    asked = parser.parse_args()
    groups = [group for group in GROUPS if not asked.engines or set(group) & set(asked.engines)]
    every = rows()
    _shared[:] = [[row for row in every if row.engine in engines] for engines in groups]
    _starts[:] = [fit(chosen) for chosen in _shared]
    errors = errors_of(held_out(asked.by))
    sys.stdout.write(show(errors) + "\n")
    for group, engines in enumerate(groups):
        for engine in engines if asked.write else ():
            found = document(engine, errors, *tables(engine, group))
            write({**found, "limits": {name: list(ends) for name, ends in LIMITS.items()}})


if __name__ == "__main__":
    main()
