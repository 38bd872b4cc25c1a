"""What attaching to a running server found: its facts, the plan beside them, the load, and what to do with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vram_planner.planning.recommend import knee
from vram_planner.validate.checked import finite

if TYPE_CHECKING:
    from vram_planner.planning.calibration import Calibration
    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.planning.recommend import Recommendation
    from vram_planner.validate.server_compare import Compared
    from vram_planner.validate.server_facts import Gauges, ServerFacts
    from vram_planner.validate.server_load import Load


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """Plan against server. `plan` is None where the server does not tell enough to plan it, and a warning says why."""

    url: str
    facts: ServerFacts
    now: Gauges
    plan: MemoryPlan | None
    rows: tuple[Compared, ...]
    tolerance: float
    load: Load | None = None
    recommendation: Recommendation | None = None
    calibration: Calibration | None = None
    warnings: tuple[str, ...] = ()

    @property
    def held(self) -> bool | None:
        """Whether every judged row is within the tolerance; None where there is none to judge."""
        judged = [row.holds(self.tolerance) for row in self.rows if row.judged]
        return all(judged) if judged else None

    @property
    def findings(self) -> dict[str, int | None]:
        """At which concurrency what happened first; None where it did not within the load."""
        if self.load is None:
            return {}
        return {
            "queue_grows_at": self.load.first("queue"),
            "cache_full_at": self.load.first("cache"),
            "ttft_broken_at": self.load.first("ttft"),
            "tpot_broken_at": self.load.first("tpot"),
            "failed_at": self.load.first("failed"),
            "throughput_flat_from": knee(tuple(step.as_step() for step in self.load.steps)),
            "largest": self.load.largest,
        }

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "schema_version": 1,
            "rung": "server",
            "url": self.url,
            "server": {**asdict(self.facts), "now": asdict(self.now)},
            "planned_as": None if self.plan is None else self.plan.request,
            "held": self.held,
            "tolerance": self.tolerance,
            "rows": [{**asdict(row), "error": finite(row.error)} for row in self.rows],
            "load": None if self.load is None else _load_dict(self.load),
            "findings": self.findings,
            "recommendation": None if self.recommendation is None else asdict(self.recommendation),
            "calibration": None if self.calibration is None else asdict(self.calibration),
            "warnings": list(self.warnings),
            "not_covered": list(self.facts.not_told),
        }


def _load_dict(load: Load) -> dict[str, Any]:
    return {
        "ask": asdict(load.ask),
        "steps": [asdict(step) for step in load.steps],
        "complete": load.complete,
        "stopped": load.stopped,
    }
