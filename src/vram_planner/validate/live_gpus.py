"""The same live run on each GPU by itself, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vram_planner.errors import PlannerError, RequestError
from vram_planner.validate.device_set import ALL, Gpus, gpu_numbers
from vram_planner.validate.faults import CannotMeasureError
from vram_planner.validate.live_run import live

if TYPE_CHECKING:
    from vram_planner.validate.live_result import Lived


@dataclass(frozen=True, slots=True, kw_only=True)
class NotMeasured:
    """A GPU that could not be measured: why, and what to do."""

    gpu: int
    message: str
    hint: str
    exit_status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LivedEach:
    """What was found on each GPU, by NVML's number, and those that could not be measured."""

    runs: tuple[tuple[int, Lived], ...]
    missed: tuple[NotMeasured, ...]

    @property
    def held(self) -> bool:
        """Whether the plan held on every GPU, none left out."""
        return not self.missed and all(found.held for _, found in self.runs)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What each run warned of, with its GPU."""
        return tuple(f"GPU {gpu}: {line}" for gpu, found in self.runs for line in found.warnings)

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it: the document of each run under its GPU."""
        return {
            "schema_version": 1,
            "rung": "live",
            "parallel": "each",
            "held": self.held,
            "gpus": [{"gpu": gpu, **found.to_dict()} for gpu, found in self.runs],
            "not_measured": [{"gpu": one.gpu, "error": one.message, "hint": one.hint} for one in self.missed],
        }


def live_each(model: str, *, gpu: Gpus = ALL, **options: Any) -> LivedEach:
    """
    Run `live` on each GPU by itself, in NVML's order; a GPU that cannot be measured does not stop the others.

    `options` are those of `live`. Raises RequestError for the CPU, and the first GPU's error where none could be measured,
    or where the request itself is wrong.
    """
    if options.get("device", "cuda") != "cuda":
        raise RequestError("there is one CPU", hint="leave out --parallel each")
    options.pop("parallel", None)
    runs: list[tuple[int, Lived]] = []
    missed: list[NotMeasured] = []
    first: PlannerError | None = None
    for number in gpu_numbers(gpu):
        try:
            runs.append((number, live(model, gpu=number, **options)))
        except PlannerError as error:
            if error.exit_status != CannotMeasureError.exit_status:
                raise
            first = first or error
            missed.append(
                NotMeasured(gpu=number, message=str(error), hint=error.hint, exit_status=error.exit_status)
            )
    if first is not None and not runs:
        raise first
    return LivedEach(runs=tuple(runs), missed=tuple(missed))
