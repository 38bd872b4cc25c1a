"""Replay records of real start-ups through the planner, and score every component: predicted against logged."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vram_planner.errors import PlannerError, RecordError
from vram_planner.validate import replay_llama_cpp, replay_servers, replay_serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

RECORDS = Path(__file__).parent / "records"
_LONGEST_LINE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """
    One record through the planner: component -> (predicted, logged), in the record's own unit.

    `fitted` says that a constant of the profile it ran with was read from logs of this model: such rows
    are scored apart. `covered` says of each component that has a band whether what was logged lies in it.
    `notes` say what of the record was not compared, or not taken as stated, and why.
    """

    id: str
    engine: str
    version: str
    model: str
    gpu: str
    pairs: dict[str, tuple[float, float]]
    fitted: bool = False
    covered: dict[str, bool] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A record that could not be replayed, and why."""

    id: str
    engine: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Relative error of one component over a group of rows; `covered` is the share that lies in the stated band."""

    group: str
    component: str
    n: int
    median: float
    p90: float
    worst: float
    bias: float
    covered: float | None = None


# A log line says two decimals of GiB at best, so a part of less than this cannot be scored in per cent.
_LEAST_LOGGED = 0.05
_REPLAYS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "vllm": replay_servers.replay,
    "sglang": replay_servers.replay,
    "tensorrt-llm": replay_servers.replay,
    "llama.cpp": replay_llama_cpp.replay,
    "ollama": replay_llama_cpp.replay,
}


def read_records(files: Iterable[Path] = ()) -> Iterator[dict[str, Any]]:
    """
    Records of the given JSONL files, or of those that the package carries.

    Raises RecordError for a line that is no JSON object, with file and line.
    """
    for path in tuple(files) or sorted(RECORDS.glob("*.jsonl")):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecordError(
                f"cannot read {path}: {error}", hint="records are JSON lines; see docs/reference/records.md"
            ) from error
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield _record(line, f"{path.name}, line {number}")


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line) if len(line) < _LONGEST_LINE else None
    except ValueError as error:
        raise RecordError(f"{where} is no JSON: {error}", hint="one JSON object a line") from error
    if not isinstance(row, dict) or not isinstance(row.get("engine"), str):
        raise RecordError(f"{where} is no record", hint="an object with at least 'id', 'engine', 'measured'")
    return {"id": where, **row}


def engine_of(row: dict[str, Any]) -> str:
    """Our name of the record's engine: what embeds llama.cpp counts as that, forks keep their own."""
    name: str = row["engine"]
    if replay_serving.is_serving(row):
        return replay_serving.ENGINES.get(name, name)
    return {"trtllm": "tensorrt-llm"}.get(name) or replay_llama_cpp.embedded(name)


def replay_all(records: Iterable[dict[str, Any]], engine: str | None = None) -> Iterator[Replayed | Skipped]:
    """Each record replayed, or skipped with its reason; `engine` keeps one engine's."""
    for row in records:
        name = engine_of(row)
        if engine is not None and name != engine:
            continue
        replay = replay_serving.replay if replay_serving.is_serving(row) else _REPLAYS.get(name)
        if replay is None:
            yield Skipped(id=row["id"], engine=name, reason=f"{name} is not planned for")
            continue
        try:
            found = replay(row)
        except PlannerError as error:
            yield Skipped(id=row["id"], engine=name, reason=str(error))
            continue
        pairs = {
            key: pair for key, pair in found["pairs"].items() if pair[1] and abs(pair[1]) >= _LEAST_LOGGED
        }
        if not pairs:
            yield Skipped(id=row["id"], engine=name, reason="it logs nothing that a plan predicts")
            continue
        yield Replayed(
            id=row["id"],
            engine=name,
            version=found["version"],
            model=str(row.get("model")),
            gpu=str(row.get("gpu") or "?"),
            pairs=pairs,
            fitted=found["fitted"],
            covered={name: inside for name, inside in found.get("covered", {}).items() if name in pairs},
            notes=found.get("notes", ()),
        )


def scores(rows: Iterable[Replayed], by: str = "engine") -> list[Score]:
    """Error per component of each group; `by` is engine, version, gpu, model or fitted."""
    groups: dict[str, dict[str, list[float]]] = {}
    inside: dict[tuple[str, str], list[bool]] = {}
    for row in rows:
        group = groups.setdefault(_group(row, by), {})
        for component, covered in row.covered.items():
            inside.setdefault((_group(row, by), component), []).append(covered)
        for component, (ours, logged) in row.pairs.items():
            group.setdefault(component, []).append(ours / logged - 1)
    return [
        _score(group, component, values, inside.get((group, component)))
        for group, components in sorted(groups.items())
        for component, values in components.items()
    ]


def _group(row: Replayed, by: str) -> str:
    if by == "fitted":
        return f"{row.engine}, {'constants fitted on this model' if row.fitted else 'not fitted'}"
    value = getattr(row, by)
    return str(value) if by == "engine" else f"{row.engine} {value}"


def _score(group: str, component: str, values: list[float], inside: list[bool] | None) -> Score:
    sizes = sorted(map(abs, values))
    return Score(
        group=group,
        component=component,
        n=len(values),
        median=statistics.median(sizes),
        p90=sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))],
        worst=sizes[-1],
        bias=statistics.mean(values),
        covered=sum(inside) / len(inside) if inside else None,
    )
