"""What an engine's own code answered when it was asked in a process of its own, beside the plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vram_planner.planning.recommend import recommend
from vram_planner.validate.checked import Checked, checked_dict, finite, plan_held
from vram_planner.validate.faults import CannotMeasureError, ChildError
from vram_planner.validate.recommend import evidence_of_answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.planning.recommend import Recommendation
    from vram_planner.validate.child import Child, Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """A planned number that is no size (blocks, tokens, requests) beside the engine's own."""

    name: str
    planned: float
    measured: float

    @property
    def error(self) -> float:
        """Planned against the engine's, relative; positive: the plan was too high."""
        if self.measured:
            return self.planned / self.measured - 1
        return 0.0 if not self.planned else float("inf")

    def holds(self, tolerance: float) -> bool:
        """Whether the plan held here."""
        return abs(self.error) <= tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineShadow:
    """
    The plan beside the engine's answer: rows in bytes, counts in whatever they count.

    `answer` is all that the engine said, `notes` what a reader must know to read the rows.
    """

    model: str
    engine: str
    versions: dict[str, str]
    request: dict[str, Any]
    where: str
    rows: tuple[Checked, ...]
    counts: tuple[Count, ...]
    answer: dict[str, Any]
    notes: tuple[str, ...]
    not_covered: tuple[str, ...]
    tolerance: float
    seconds: float
    plan: MemoryPlan

    @property
    def recommendation(self) -> Recommendation | None:
        """How many at once on the card that was named; None without one."""
        evidence = evidence_of_answer(self)
        return None if evidence is None else recommend(evidence)

    @property
    def held(self) -> bool:
        """Whether every row and every count is within the tolerance."""
        return plan_held(self.rows, self.tolerance) and all(row.holds(self.tolerance) for row in self.counts)

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "schema_version": 1,
            "rung": "shadow",
            "model": self.model,
            "engine": self.engine,
            "versions": self.versions,
            "request": self.request,
            "where": self.where,
            "held": self.held,
            "tolerance": self.tolerance,
            "rows": [checked_dict(row) for row in self.rows],
            "counts": [{**asdict(row), "error": finite(row.error)} for row in self.counts],
            "recommendation": None if self.recommendation is None else asdict(self.recommendation),
            "answer": self.answer,
            "notes": list(self.notes),
            "not_covered": list(self.not_covered),
            "seconds": self.seconds,
        }


def asked_of(child: Child, request: Mapping[str, Any], *, limit_s: float, of: str) -> dict[str, Any]:
    """The answer to one request; ChildError where the process died or hung, CannotMeasureError where `of` refused."""
    reply = child.ask(request, limit_s=limit_s)
    if not reply.answered:
        raise _lost(reply, of)
    answer = reply.answer
    if answer.get("ok") is not True:
        raise CannotMeasureError(
            f"{of} does not answer for this model: {_told(answer)}",
            hint=str(answer.get("hint") or "try another release of it; or start the server and read its log")
            + ("" if answer.get("hint") else " with `vram-plan validate log`"),
        )
    return answer


def whole(answer: Mapping[str, Any], name: str, *, of: str) -> int:
    """A whole number of the answer; ChildError where it is none."""
    value = answer.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ChildError(f"{of} answered no {name}: {str(value)[:40]!r}", hint="try another release of it")
    return value


def _told(answer: Mapping[str, Any]) -> str:
    kind, message = str(answer.get("error", "no reason given")), str(answer.get("message", ""))
    return message[:700] if kind == "refused" and message else f"{kind}: {message}".rstrip(": ")[:700]


def _lost(reply: Reply, of: str) -> ChildError:
    how = "gave no answer in time" if reply.ended == "hung" else "ended before it answered"
    return ChildError(
        f"the process that asks {of} {how}: {reply.note}",
        hint="give it longer with --time-limit"
        if reply.ended == "hung"
        else f"see that {of} works by itself",
    )
