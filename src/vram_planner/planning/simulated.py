"""The answer of a simulation: percentiles with their error, the cache's need, and what binds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vram_planner.planning.batching_parts import Rules
    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.planning.simulate_request import SimulateRequest

SCHEMA_VERSION = 1
# Attributes of a request -> names in the answer.
FIGURES = {"ttft_s": "ttft_s", "tpot_s": "tpot_s", "stay_s": "e2e_s", "queue_s": "queue_s"}
NOT_MODELLED = (
    "rates that change over the day",
    "speculative decoding",
    "requests that share blocks of the cache (prefix hits save work here, no room)",
    "routing between replicas: each gets an even share",
    "images and sound in prompts",
)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Measure:
    """Mean and quantiles of a figure in seconds; errors are half-widths of 95 % confidence intervals, None of one run."""

    mean: float
    mean_error: float | None
    quantiles: dict[float, float]
    errors: dict[float, float | None]

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON: p50, p50_error and so on."""
        found: dict[str, Any] = {"mean": self.mean, "mean_error": self.mean_error}
        for share, value in self.quantiles.items():
            found[percent(share)] = value
            found[f"{percent(share)}_error"] = self.errors[share]
        return found


def percent(share: float) -> str:
    """0.95 as p95."""
    return f"p{share * 100:g}"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class KvNeeds:
    """
    What a request takes of one server's cache, as expected at a random moment and at worst, and what has room.

    Blocks are None for engines without them or whose pool is not divided so; then requests have a place of full
    context each. `in_flight` is the simulated mean of a server, waiting ones with it.
    """

    tokens_expected: float
    tokens_worst: int
    bytes_expected: float
    bytes_worst: float
    pool_bytes: float | None
    blocks: int | None
    block_tokens: int | None
    blocks_expected: float | None
    blocks_worst: float | None
    at_once_expected: float
    at_once_worst: float
    in_flight: float


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Simulation:
    """
    A server under traffic. Rates, tokens and requests in flight are of one of `replicas` servers, each alike.

    `figures` are by the best estimate of the speed, `slower` with steps as slow as the low end
    of the band of throughput has them.
    `keeps_up` is whether requests end as fast as they come; if not, waits grow with the length of the run.
    """

    request: SimulateRequest
    plan: MemoryPlan
    replicas: int
    rules: Rules
    figures: dict[str, Measure]
    slower: dict[str, Measure]
    requests: int
    seconds: float
    requests_per_s: float
    output_tokens_per_s: float
    in_flight: float
    running: float
    busy: float
    steps: int
    preemptions: int
    kv: KvNeeds
    kv_mean: float | None
    kv_peak: float | None
    cut: int
    refused: int
    keeps_up: bool
    bound_by: str

    def at(self, figure: str, *, slower: bool = False) -> float:
        """A figure (ttft_s, tpot_s, stay_s, queue_s) at the asked percentile."""
        return (self.slower if slower else self.figures)[figure].quantiles[self.request.percentile / 100]

    def limits(self) -> dict[str, tuple[float, float, float]]:
        """Each limit that was given: the limit, the figure at the percentile, and with the slower steps."""
        return {
            name: (limit, self.at(name), self.at(name, slower=True))
            for name, limit in (("ttft_s", self.request.ttft_s), ("tpot_s", self.request.tpot_s))
            if limit is not None
        }

    @property
    def met(self) -> bool:
        """Whether every limit holds by the best estimate, and the server keeps up."""
        return self.keeps_up and all(best <= limit for limit, best, _ in self.limits().values())

    @property
    def surely(self) -> bool:
        """Whether the limits hold with the slower steps too."""
        return self.met and all(slow <= limit for limit, _, slow in self.limits().values())

    @property
    def not_modelled(self) -> tuple[str, ...]:
        """What is left out."""
        return NOT_MODELLED

    def to_dict(self) -> dict[str, Any]:
        """One JSON document: seconds, bytes, tokens, shares of 1."""
        request = self.request
        asked = ("model", "gpu", "ctx", "rate", "burstiness", "users", "think_s", "requests", "runs", "seed", "ttft_s", "tpot_s",
                 "percentile")  # fmt: skip
        plain = ("replicas", "requests", "seconds", "requests_per_s", "output_tokens_per_s", "in_flight", "running",
                 "busy", "steps", "preemptions", "kv_mean", "kv_peak", "cut", "refused", "keeps_up", "bound_by", "met",
                 "surely")  # fmt: skip
        return {
            "schema_version": SCHEMA_VERSION,
            "request": {
                **{name: getattr(request, name) for name in asked},
                "longest": request.longest,
                "prefix_hit": request.hit,
                "max_tokens": request.limit,
                "workload": request.lengths.to_dict(),
                **request.options,
            },
            "model": self.plan.model.name,
            "engine": self.plan.engine_title,
            "gpu": self.plan.gpu.name if self.plan.gpu else None,
            "gpus": self.plan.gpu.count if self.plan.gpu else None,
            "max_num_seqs": self.rules.seats,
            "max_num_batched_tokens": self.rules.budget,
            "figures": {FIGURES[name]: each.to_dict() for name, each in self.figures.items()},
            "slower": {FIGURES[name]: each.to_dict() for name, each in self.slower.items()},
            "kv": asdict(self.kv),
            **{name: getattr(self, name) for name in plain},
            "launch": self.plan.launch,
            "not_modelled": list(self.not_modelled),
            "warnings": list(self.plan.warnings),
        }

    def to_rows(self) -> list[dict[str, Any]]:
        """One row of plain columns a figure: seconds by the best estimate, and with the slower steps."""
        return [
            {
                "figure": FIGURES[name],
                **each.to_dict(),
                **{f"{percent(share)}_slower": value for share, value in self.slower[name].quantiles.items()},
            }
            for name, each in self.figures.items()
        ]
