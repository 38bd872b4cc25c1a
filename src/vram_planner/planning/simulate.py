"""A plan under traffic: independent runs of the batching simulation, their percentiles, and what the cache needs."""

from __future__ import annotations

from math import inf, log, sqrt
from random import Random
from statistics import fmean, stdev
from typing import TYPE_CHECKING, NamedTuple

from vram_planner.errors import RequestError
from vram_planner.planning.arrivals import Poisson, Users
from vram_planner.planning.batching import Server
from vram_planner.planning.batching_parts import Request, Tally
from vram_planner.planning.performance_constants import spread
from vram_planner.planning.simulated import FIGURES, KvNeeds, Measure, Simulation
from vram_planner.planning.step_costs import costs_of, room_of, rules_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.planning.arrivals import Arrivals
    from vram_planner.planning.batching_parts import Room, Rules
    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.planning.simulate_request import SimulateRequest
    from vram_planner.planning.step_costs import ServedCosts

_WARM_UP = 0.2
_AFTER = 1000
_SHARES = (0.5, 0.9, 0.95, 0.99)
# Two-sided 95 % of Student's t by degrees of freedom; beyond them the normal's.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_GROWS = 0.05
_BLOCKED = 0.05


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
