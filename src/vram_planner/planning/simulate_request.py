"""What a simulation is asked: the traffic, how long it is watched, the limits, and the server's plan."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from vram_planner.errors import RequestError
from vram_planner.planning.estimate import estimate
from vram_planner.planning.request import PlanRequest
from vram_planner.planning.workload import Lengths, lengths_of

if TYPE_CHECKING:
    from vram_planner.planning.plan import MemoryPlan

_MOST_USERS = 100_000
_MOST_REQUESTS = 1_000_000
_MOST_RUNS = 100
_MOST_TOKENS = 1 << 24
_BUNCHED = 0.01
_NOT_YOURS = ("model", "ctx", "concurrency", "gpu", "prompt_tokens", "speculative")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SimulateRequest:
    """
    What `simulate` is asked. Give `rate` (requests a second) or `users`, who think `think_s` seconds on average.

    Gaps between requests that come at a rate are gamma-distributed with the shape `burstiness` b: 1 is Poisson, less comes
    in bunches, their coefficient of variation is 1/√b (as `vllm bench serve --burstiness` has it).

    `lengths` are those of the requests; `ctx` the longest (the lengths' own if not said). Each of `runs` independent
    runs watches `requests` requests, after a fifth as many to warm up. Limits hold at the `percentile`th percentile.
    `prefix_hit` None: that of the workload. `max_tokens` is what clients ask for at most, for which SGLang and
    TensorRT-LLM keep room; None: the longest output of the workload. `options` are those of a plan: engine, quant, tp ... RequestError for
    what cannot be meant.
    """

    model: str
    gpu: str
    lengths: Lengths
    ctx: int | None = None
    rate: float | None = None
    burstiness: float = 1.0
    users: int | None = None
    think_s: float = 0.0
    requests: int = 1000
    runs: int = 5
    seed: int = 0
    ttft_s: float | None = None
    tpot_s: float | None = None
    percentile: float = 95.0
    prefix_hit: float | None = None
    max_tokens: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every range."""
        if (self.users is None) == (self.rate is None):
            raise RequestError("say either --users or --rate", hint="as in --users 200 or --rate 2/s")
        for name, value in (("rate", self.rate), ("ttft", self.ttft_s), ("tpot", self.tpot_s)):
            if value is not None and not 0 < value < inf:
                raise RequestError(f"--{name} {value} is out of range", hint="a number above zero")
        if not _BUNCHED <= self.burstiness <= 1 / _BUNCHED:
            raise RequestError(
                f"--burstiness {self.burstiness} is out of range",
                hint=f"between {_BUNCHED:g} and {1 / _BUNCHED:g}; 1 is Poisson, less comes in bunches",
            )
        if self.burstiness != 1 and self.rate is None:
            raise RequestError(
                "--burstiness is of a --rate", hint="users come again when they have their answers"
            )
        if not (isfinite(self.think_s) and self.think_s >= 0):
            raise RequestError(f"--think-time {self.think_s} is out of range", hint="0 or more seconds")
        self._check_counts()
        wrong = next((name for name in self.options if name in _NOT_YOURS), None)
        if wrong is not None:
            raise RequestError(f"{wrong!r} is not for a simulation", hint="see vram-plan simulate --help")

    def _check_counts(self) -> None:
        if not 0 < self.percentile < 100:  # noqa: PLR2004  per cent
            raise RequestError(
                f"--percentile {self.percentile} is out of range", hint="between 0 and 100, as in 95"
            )
        if self.prefix_hit is not None and not 0 <= self.prefix_hit < 1:
            raise RequestError(f"--prefix-hit {self.prefix_hit} is no share", hint="0 or more, below 1")
        whole = {"users": (self.users, _MOST_USERS), "requests": (self.requests, _MOST_REQUESTS),
                 "runs": (self.runs, _MOST_RUNS), "max-tokens": (self.max_tokens, _MOST_TOKENS)}  # fmt: skip
        for name, (count, most) in whole.items():
            if count is not None and not 1 <= count <= most:
                raise RequestError(f"--{name} {count:,} is out of range", hint=f"between 1 and {most:,}")
        if self.requests * self.runs > _MOST_REQUESTS:
            raise RequestError(
                f"{self.requests * self.runs:,} requests in all",
                hint=f"at most {_MOST_REQUESTS:,}: fewer --runs",
            )

    @property
    def longest(self) -> int:
        """Tokens of the longest request."""
        return self.ctx if self.ctx is not None else self.lengths.longest

    @property
    def hit(self) -> float:
        """Share of each prompt that the prefix cache has."""
        return self.lengths.prefix_hit if self.prefix_hit is None else self.prefix_hit

    @property
    def limit(self) -> int:
        """The tokens that clients ask for at most."""
        return self.lengths.longest_output if self.max_tokens is None else self.max_tokens

    def plan(self) -> MemoryPlan:
        """The plan of one server, for requests up to the longest."""
        middle = max(1, min(self.longest - 1, round(self.lengths.prompt.at(0.5))))
        return estimate(
            PlanRequest.of(
                model=self.model, gpu=self.gpu, ctx=max(2, self.longest), concurrency=1, prompt_tokens=middle,
                **self.options,
            )
        )  # fmt: skip


def request_of(
    model: str,
    *,
    gpu: str,
    workload: str | Lengths | None = None,
    prompt_tokens: str | int | None = None,
    output_tokens: str | int | None = None,
    **options: Any,
) -> SimulateRequest:
    """A request from keywords: its own fields, and the rest as options of a plan."""
    own = {each.name for each in fields(SimulateRequest)} - {"options", "lengths"}
    return SimulateRequest(
        model=model,
        gpu=gpu,
        lengths=lengths_of(workload, prompt_tokens, output_tokens),
        options={name: value for name, value in options.items() if name not in own},
        **{name: value for name, value in options.items() if name in own},
    )
