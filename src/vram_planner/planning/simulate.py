"""A plan under traffic: independent runs of the batching simulation, their percentiles, and what the cache needs."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from math import inf, isfinite, log, sqrt
from random import Random
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

from vram_planner.errors import RequestError
from vram_planner.planning.arrivals import Poisson, Users
from vram_planner.planning.batching import Server
from vram_planner.planning.batching_parts import Request, Tally
from vram_planner.planning.estimate import estimate
from vram_planner.planning.performance_constants import spread
from vram_planner.planning.request import PlanRequest
from vram_planner.planning.simulated import FIGURES, KvNeeds, Measure, Simulation
from vram_planner.planning.step_costs import costs_of, room_of, rules_of
from vram_planner.planning.workload import Lengths, lengths_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.planning.arrivals import Arrivals
    from vram_planner.planning.batching_parts import Room, Rules
    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.planning.step_costs import ServedCosts

_MOST_USERS = 100_000
_MOST_REQUESTS = 1_000_000
_MOST_RUNS = 100
_MOST_TOKENS = 1 << 24
_BUNCHED = 0.01
_WARM_UP = 0.2
_AFTER = 1000
_SHARES = (0.5, 0.9, 0.95, 0.99)
# Two-sided 95 % of Student's t by degrees of freedom; beyond them the normal's.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_GROWS = 0.05
_BLOCKED = 0.05
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


class Run(NamedTuple):
    """One run: the watched requests, sums over the watched time, and when the watch began and the last one came."""

    requests: list[Request]
    tally: Tally
    began: float
    last: float
    cut: int


def simulate(request: SimulateRequest) -> Simulation:
    """
    Percentiles of TTFT, TPOT, stay and wait under this traffic.

    Runs are independent, seeded by `seed` and their number: the same request has the same answer. A second set of
    runs has every step slower by as much as the low end of the speed model's band of throughput says. Raises PlannerError for what does
    not fit, lengths of which hardly any fits, has no known speed, or does not batch continuously.
    """
    plan = request.plan()
    served = plan.served
    if served is None or plan.capacity is None:
        raise RequestError("a simulation needs a card", hint="--gpu 'RTX 4090'")
    if plan.capacity.max_concurrency < 1 or plan.fits is False:
        raise RequestError(
            f"a request of {request.longest:,} tokens does not fit on {served.gpu.name}",
            hint="a smaller --ctx, --quant, or more cards: vram-plan --model … --gpu … says what is short",
        )
    request.lengths.sample(max(2, request.longest))
    rules = rules_of(served, costs_of(served).load, request.limit)
    room = room_of(served, plan.engine)
    slow = 1 / spread(served.engine, "throughput", served.kind, served.setting)[0]
    best = [_run(request, costs_of(served), rules, room, number=number) for number in range(request.runs)]
    slower = [
        _run(request, costs_of(served, slower=slow), rules, room, number=number)
        for number in range(request.runs)
    ]
    return _answer(request, plan, room, rules=rules, best=best, slower=slower)


def _run(request: SimulateRequest, costs: ServedCosts, rules: Rules, room: Room, *, number: int) -> Run:
    random = Random(f"{request.seed}/{number}")  # noqa: S311  no secret
    cuts: list[bool] = []

    def draw() -> tuple[int, int]:
        found = request.lengths.draw(random, max(2, request.longest))
        if found is None:
            return 0, 0
        cuts.append(found[2])
        return found[:2]

    server = Server(
        costs=costs,
        arrivals=_arrivals(request, random, draw, costs.replicas),
        rules=rules,
        room=room,
        prefix_hit=request.hit,
    )
    run = watch(server, request.requests)
    return run._replace(cut=sum(cuts[each.number] for each in run.requests))


def _arrivals(
    request: SimulateRequest, random: Random, draw: Callable[[], tuple[int, int]], replicas: int
) -> Arrivals:
    """
    Of one replica: a random part of a Poisson stream is one too; users are dealt out evenly.

    Bunches are dealt to a replica whole, which is the worst of routers.
    """

    def gap(rate: float) -> float:
        return -log(1 - random.random()) / rate

    def bunched(rate: float) -> float:
        return random.gammavariate(request.burstiness, 1 / (request.burstiness * rate))

    if request.rate is not None:
        # Of those after the watched only as many as can be beside the last of them: a flood would fill the memory.
        gaps = gap if request.burstiness == 1 else bunched
        return Poisson(request.rate / replicas, gaps, draw, most=3 * request.requests + _AFTER)
    users = max(1, round((request.users or 1) / replicas))
    if not request.think_s:
        return Users(users, lambda: 0.0, draw)
    return Users(users, lambda: gap(1 / request.think_s), draw)


def watch(server: Server, requests: int, warm_up: float = _WARM_UP) -> Run:
    """
    Watch so many requests after a share of them to warm up; others go on coming until the last of them has ended.

    Sums are taken from the arrival of the first watched to the end of the last.
    """
    first = round(requests * warm_up)
    found: list[Request] = []
    server.watching = first == 0
    for ended in server.run():
        if not server.watching and server.came >= first:
            server.watching = True
            server.tally = Tally()
        if first <= ended.number < first + requests:
            found.append(ended)
            if len(found) == requests:
                break
    found.sort(key=lambda each: each.number)
    return Run(found, server.tally, found[0].arrived, found[-1].arrived, 0)


def quantile(ordered: list[float], share: float) -> float:
    """Of values in ascending order, with straight lines between them (Hyndman and Fan's type 7, as numpy has it)."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def measure(runs: list[list[float]], shares: tuple[float, ...] = _SHARES) -> Measure:
    """
    Mean and percentiles of a figure over all runs, each with the half-width of its 95 % confidence interval.

    Percentiles are of all runs together; the half-width is t · s / √n over the n runs' own, None of a single run.
    """
    each = [sorted(run) for run in runs]
    pooled = sorted(value for run in each for value in run)
    return Measure(
        mean=fmean(pooled),
        mean_error=half_width([fmean(run) for run in each]),
        quantiles={share: quantile(pooled, share) for share in shares},
        errors={share: half_width([quantile(run, share) for run in each]) for share in shares},
    )


def half_width(values: list[float]) -> float | None:
    """Of the 95 % confidence interval of a mean of independent values; None of fewer than two."""
    count = len(values)
    if count < 2:  # noqa: PLR2004  one has no spread
        return None
    t = _T[count - 2] if count - 2 < len(_T) else 1.96 + 2.5 / (count - 1)
    return t * stdev(values) / sqrt(count)


def _answer(
    request: SimulateRequest,
    plan: MemoryPlan,
    room: Room,
    *,
    rules: Rules,
    best: list[Run],
    slower: list[Run],
) -> Simulation:
    shares = tuple(sorted({*_SHARES, request.percentile / 100}))
    figures, slow = (
        {
            name: measure([[getattr(each, name) for each in run.requests] for run in runs], shares)
            for name in FIGURES
        }
        for runs in (best, slower)
    )
    seconds = sum(run.tally.seconds for run in best)

    def mean(name: str) -> float:
        return float(sum(getattr(run.tally, name) for run in best) / seconds)

    replicas = plan.served.ask.layout.dp if plan.served else 1
    in_system = mean("in_system_s")
    return Simulation(
        request=request,
        plan=plan,
        replicas=replicas,
        rules=rules,
        figures=figures,
        slower=slow,
        requests=sum(len(run.requests) for run in best),
        seconds=seconds,
        requests_per_s=mean("ended"),
        output_tokens_per_s=mean("tokens"),
        in_flight=in_system,
        running=mean("running_s"),
        busy=mean("busy_s"),
        steps=sum(run.tally.steps for run in best),
        preemptions=sum(run.tally.put_out for run in best),
        kv=_kv(request, plan, room, rules.seats, in_system),
        kv_mean=mean("used_s") / room.pool if room.pool < inf else None,
        kv_peak=max(run.tally.peak for run in best) / room.pool if room.pool < inf else None,
        cut=sum(run.cut for run in best),
        refused=sum(run.tally.refused for run in best),
        keeps_up=request.rate is None or _growth(best) <= _GROWS,
        bound_by=_bound_by(best, seconds),
    )


def _growth(runs: list[Run]) -> float:
    """
    By how many seconds waits grow in a second, from the first to the last fifth of a run: the mean over runs.

    The larger of that of TTFT and that of the stay of an average output. Where requests come at ρ times the rate at
    which they are served it is 1 − 1/ρ, else about 0.
    """
    firsts, stays = [], []
    for run in runs:
        fifth = max(1, len(run.requests) // 5)
        output = fmean(each.output for each in run.requests)
        early, late = run.requests[:fifth], run.requests[-fifth:]
        apart = fmean(each.arrived for each in late) - fmean(each.arrived for each in early)
        later = fmean(each.ttft_s for each in late) - fmean(each.ttft_s for each in early)
        slower = fmean(each.tpot_s for each in late) - fmean(each.tpot_s for each in early)
        firsts.append(later / apart if apart > 0 else 0.0)
        stays.append((later + output * slower) / apart if apart > 0 else 0.0)
    return max(fmean(firsts), fmean(stays))


def _bound_by(runs: list[Run], seconds: float) -> str:
    """What requests waited for in more than a twentieth of the time, else what steps are made of."""
    waits = {
        "KV room": sum(run.tally.no_room_s for run in runs),
        "max_num_seqs": sum(run.tally.no_seat_s for run in runs),
    }
    longest = max(waits, key=lambda name: waits[name])
    if waits[longest] > _BLOCKED * seconds:
        return longest
    parts = [sum(run.tally.parts[index] for run in runs) for index in range(4)]
    return ("memory bandwidth", "compute", "scheduler", "link")[parts.index(max(parts))]


def _kv(request: SimulateRequest, plan: MemoryPlan, room: Room, seats: int, in_system: float) -> KvNeeds:
    """
    What a request takes of the cache, expected and at worst.

    At a random moment of decoding a request holds E[O · (P + O/2)] / E[O] tokens: long outputs are met more often,
    and are half done when met. The worst is the longest.
    """
    ctx = max(2, request.longest)
    weight = tokens = needed = 0.0
    for prompt, output, _cut in request.lengths.sample(ctx, request.seed):
        weight += output
        tokens += output * (prompt + output / 2)
        needed += output * room.need(min(ctx, round(prompt + output / 2)))
    blocks = plan.capacity.num_blocks if plan.capacity else None
    known = room.pool < inf
    worst = room.need(ctx)
    expected = needed / weight
    kv = plan.kv
    return KvNeeds(
        tokens_expected=tokens / weight,
        tokens_worst=ctx,
        bytes_expected=expected if known else float(kv.bytes_per_request),
        bytes_worst=worst if known else float(kv.bytes_per_request),
        pool_bytes=room.pool if known else None,
        blocks=blocks,
        block_tokens=room.block if known else None,
        blocks_expected=expected / room.pool * blocks if known and blocks else None,
        blocks_worst=worst / room.pool * blocks if known and blocks else None,
        at_once_expected=room.pool / expected if known else float(seats),
        at_once_worst=room.pool / worst if known else float(seats),
        in_flight=in_system,
    )


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
