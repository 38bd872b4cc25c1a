"""The simulation's core against closed forms of queueing theory, with steps of even length in place of a model's."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vram_planner.planning.arrivals import Listed, Poisson, Users
from vram_planner.planning.batching import Server
from vram_planner.planning.batching_parts import Outlook, Room, Rules
from vram_planner.planning.performance_model import Step
from vram_planner.planning.simulate import half_width, quantile, watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STEP_S = 1 / 400
ENDLESS = Room(inf, 1 << 30, (0.0, 1.0, 1.0), 0.0)


@dataclass
class Even:
    """
    Every step takes as long, whatever is in it: then c seats are c servers.

    `shared`: as long for each sequence in it, so that all of them share one server evenly.
    """

    step_s: float = STEP_S
    shared: bool = False

    def step(self, batch: int, context: float, chunks: Sequence[tuple[int, int]]) -> Step:  # noqa: ARG002
        return Step(0.0, 0.0, self.step_s * ((batch + len(chunks)) if self.shared else 1), 0.0)

    def late_s(self, batch: int, context: float) -> float:  # noqa: ARG002
        return 0.0


def room(blocks: int, block: int = 16) -> Room:
    return Room(float(blocks), block, tuple(float(count) for count in range(10_000)), 1.0)


def drawing(random: Random, draw: Callable[[Random], int]) -> Callable[[], tuple[int, int]]:
    return lambda: (1, draw(random))


def bunching(random: Random, shape: float) -> Callable[[float], float]:
    return lambda rate: random.gammavariate(shape, 1 / (shape * rate))


def thinking(random: Random, mean_s: float) -> Callable[[], float]:
    return lambda: random.expovariate(1 / mean_s)


def waits(
    seats: int, load: float, draw: Callable[[Random], int], runs: int = 10, each: int = 2000
) -> list[float]:
    """Mean wait of independent runs at `load` of c = `seats` servers with a mean service of 1 s."""
    found = []
    for number in range(runs):
        random = Random(number)
        arrivals = Poisson(load * seats, random.expovariate, drawing(random, draw))
        rules = Rules(seats=seats, budget=1 << 20)
        run = watch(Server(costs=Even(), arrivals=arrivals, rules=rules, room=ENDLESS), each)
        found.append(fmean(request.queue_s for request in run.requests))
    return found


def exponential(random: Random) -> int:
    return max(1, round(random.expovariate(1.0) / STEP_S))


def erlang_c(servers: int, load: float) -> float:
    """Mean wait of M/M/c with a mean service of 1 s: C(c, a) / (c − a), a = c · load."""
    offered, blocked = servers * load, 1.0
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    waiting = blocked / (1 - load * (1 - blocked))
    return waiting / (servers - offered)


def holds(found: list[float], theory: float) -> None:
    """Within the 95 % interval, widened to three standard errors, and the step to which starts are rounded."""
    error = half_width(found)
    assert error is not None
    assert abs(fmean(found) - theory) <= 1.5 * error + STEP_S, (fmean(found), theory, error)


@pytest.mark.parametrize(("seats", "load"), [(1, 0.5), (1, 0.8), (4, 0.7), (16, 0.9)])
def test_waits_of_exponential_service_are_those_of_m_m_c(seats: int, load: float) -> None:
    # Erlang C: Kleinrock, Queueing Systems I, 3.5; for one server ρ / (1 − ρ).
    holds(waits(seats, load, exponential), erlang_c(seats, load))


def test_one_server_of_erlang_c_is_m_m_1() -> None:
    assert erlang_c(1, 0.8) == pytest.approx(0.8 / 0.2)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_waits_of_even_service_are_those_of_m_d_1(load: float) -> None:
    # Pollaczek-Khinchine with no variance of service: ρ / (2 (1 − ρ)).
    holds(waits(1, load, lambda _: round(1 / STEP_S)), load / (2 * (1 - load)))


def two_kinds(random: Random) -> int:
    """Nine in ten of 0.2 s, one of 8.2 s: mean 1 s, E[S²] = 6.76 s²."""
    return round((0.2 if random.random() < 0.9 else 8.2) / STEP_S)


@pytest.mark.parametrize("load", [0.4, 0.7])
def test_waits_of_uneven_service_are_those_of_m_g_1(load: float) -> None:
    # Pollaczek-Khinchine: λ E[S²] / (2 (1 − ρ)); Kleinrock, Queueing Systems I, 5.7.
    holds(waits(1, load, two_kinds, each=4000), load * 6.76 / (2 * (1 - load)))


@pytest.mark.parametrize("shape", [0.25, 2.0])
def test_waits_of_bunched_arrivals_are_those_of_g_m_1(shape: float) -> None:
    # Gamma gaps: σ = (1 + (1 − σ)/(k ρ))^−k, the wait σ / (1 − σ). Kleinrock, Queueing Systems I, 6.4.
    load, found, sigma = 0.6, [], 0.5
    for _ in range(500):
        sigma = (1 + (1 - sigma) / (shape * load)) ** -shape
    for number in range(10):
        random = Random(number)
        arrivals = Poisson(load, bunching(random, shape), drawing(random, exponential))
        server = Server(costs=Even(), arrivals=arrivals, rules=Rules(seats=1, budget=9), room=ENDLESS)
        found.append(fmean(request.queue_s for request in watch(server, 6000).requests))

    holds(found, sigma / (1 - sigma))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_percentiles_of_the_stay_are_those_of_m_m_1(share: float) -> None:
    # The stay of M/M/1, first come first served, is exponential of rate μ − λ: its quantile is −ln(1 − q) / (μ − λ).
    load, found = 0.7, []
    for number in range(10):
        random = Random(number)
        arrivals = Poisson(load, random.expovariate, drawing(random, exponential))
        server = Server(costs=Even(), arrivals=arrivals, rules=Rules(seats=1, budget=9), room=ENDLESS)
        found.append(quantile(sorted(r.stay_s for r in watch(server, 4000).requests), share))

    holds(found, -log(1 - share) / (1 - load))


@pytest.mark.parametrize("draw", [exponential, two_kinds, lambda _: round(1 / STEP_S)])
def test_a_batch_that_shares_one_server_is_m_g_1_with_processor_sharing(
    draw: Callable[[Random], int],
) -> None:
    # The mean stay is E[S] / (1 − ρ) whatever the spread of service; Kleinrock, Queueing Systems II, 4.4.
    load, found = 0.6, []
    for number in range(10):
        random = Random(number)
        arrivals = Poisson(load, random.expovariate, drawing(random, draw))
        rules = Rules(seats=1 << 20, budget=1 << 20)
        server = Server(costs=Even(shared=True), arrivals=arrivals, rules=rules, room=ENDLESS)
        found.append(fmean(r.stay_s for r in watch(server, 2500).requests))
    # A request starts after the step that runs: some steps of the mean batch.
    error = half_width(found)
    assert error is not None
    assert abs(fmean(found) - 1 / (1 - load)) <= 1.5 * error + 4 * STEP_S, (fmean(found), error)


def test_users_who_think_are_the_machine_repair_model() -> None:
    # M/M/c//N: p(n) ∝ N!/(N−n)! · r^n / Π min(k, c), r = service/think; throughput (N − E[n]) / think. Kleinrock I, 3.8.
    users, seats, think = 12, 3, 4.0
    weights = [1.0]
    for count in range(1, users + 1):
        weights.append(weights[-1] * (users - count + 1) / think / min(count, seats))
    mean = sum(count * weight for count, weight in enumerate(weights)) / sum(weights)
    found = []
    for number in range(10):
        random = Random(number)
        people = Users(users, thinking(random, think), drawing(random, exponential))
        rules = Rules(seats=seats, budget=99)
        run = watch(Server(costs=Even(), arrivals=people, rules=rules, room=ENDLESS), 3000)
        found.append(run.tally.ended / run.tally.seconds)

    holds(found, (users - mean) / think)


@settings(max_examples=30, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.floats(0, 100), st.integers(1, 200), st.integers(1, 60)), min_size=1, max_size=40
    ),
    order=st.randoms(use_true_random=False),
)
def test_a_trace_in_any_order_is_the_same_traffic(
    requests: list[tuple[float, int, int]], order: Random
) -> None:
    # Those of one moment keep their order: they wait in it.
    requests = [each for at, each in {each[0]: each for each in requests}.items() if at >= 0]
    shuffled = requests[:]
    order.shuffle(shuffled)
    ends = []
    for each in (requests, shuffled):
        server = Server(costs=Even(), arrivals=Listed(each), rules=Rules(seats=3, budget=64), room=room(40))
        ended = list(server.run())
        ends.append([(r.arrived, r.prompt, r.output, r.first, r.ended) for r in ended])
        # Conservation: every request that came has ended once, with its own lengths.
        assert sorted((r.arrived, r.prompt, r.output) for r in ended) == sorted(requests)

    assert ends[0] == ends[1]


def test_a_closed_loop_keeps_as_many_in_flight_as_there_are_users() -> None:
    server = Server(
        costs=Even(),
        arrivals=Users(7, lambda: 0.0, lambda: (1, 40)),
        rules=Rules(seats=4, budget=99),
        room=ENDLESS,
    )
    run = watch(server, 400)

    assert run.tally.in_system_s / run.tally.seconds == pytest.approx(7)
    assert run.tally.running_s / run.tally.seconds == pytest.approx(4, rel=0.02)


def test_a_closed_loop_obeys_the_response_time_law() -> None:
    # N = X · (R + Z): Denning and Buzen, The Operational Analysis of Queueing Network Models.
    random = Random(1)
    users = Users(30, lambda: random.expovariate(1 / 5), lambda: (1, exponential(random)))
    run = watch(Server(costs=Even(), arrivals=users, rules=Rules(seats=4, budget=99), room=ENDLESS), 20_000)
    rate = len(run.requests) / (run.last - run.began)

    assert rate * (fmean(request.stay_s for request in run.requests) + 5) == pytest.approx(30, rel=0.05)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    rate=st.floats(0.1, 100),
    seats=st.integers(1, 12),
    budget=st.integers(1, 300),
    blocks=st.integers(24, 200),
    mixes=st.booleans(),
    whole=st.booleans(),
    reserves=st.booleans(),
    hit=st.floats(0, 0.9),
    looks=st.booleans(),
    more=st.integers(0, 300),
)
def test_every_token_is_produced_and_little_s_law_holds_to_the_last_digit(
    seed: int,
    rate: float,
    seats: int,
    budget: int,
    blocks: int,
    *,
    mixes: bool,
    whole: bool,
    reserves: bool,
    hit: float,
    looks: bool,
    more: int,
) -> None:
    random = Random(seed)
    arrivals = Poisson(
        rate, random.expovariate, lambda: (random.randint(1, 200), random.randint(1, 160)), most=80
    )
    rules = Rules(
        seats=seats, budget=budget, mixes=mixes, whole_prompt=whole, reserves=reserves, watermark=0.01 * seats,
        outlook=Outlook() if looks and not (mixes or reserves) else None, limit=more, longest=368,
    )  # fmt: skip
    server = Server(costs=Even(), arrivals=arrivals, rules=rules, room=room(blocks), prefix_hit=hit)
    ended = list(server.run())
    tally = server.tally

    assert len(ended) == 80
    assert all(request.given == request.output for request in ended)
    assert tally.tokens == sum(request.output for request in ended)
    assert tally.peak <= blocks
    assert tally.ended == 80
    assert not server.running
    assert not server.waiting
    assert all(r.arrived <= r.started < r.first <= r.ended for r in ended)
    # L · T = Σ W: the area under the requests in the system is the sum of their stays.
    assert tally.in_system_s == pytest.approx(sum(request.stay_s for request in ended))
    if reserves:
        assert tally.put_out == 0


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1 << 30), load=st.floats(0.2, 0.8), seats=st.integers(1, 8))
def test_little_s_law_holds_in_steady_state(seed: int, load: float, seats: int) -> None:
    differences, sizes = [], []
    for number in range(8):
        random = Random(f"{seed}/{number}")
        arrivals = Poisson(load * seats, random.expovariate, drawing(random, exponential))
        rules = Rules(seats=seats, budget=1 << 20)
        run = watch(Server(costs=Even(), arrivals=arrivals, rules=rules, room=ENDLESS), 1500)
        in_system = run.tally.in_system_s / run.tally.seconds
        differences.append(in_system - load * seats * fmean(r.stay_s for r in run.requests))
        sizes.append(in_system)
    error = half_width(differences)
    assert error is not None

    # Three times the half-width: hypothesis tries many seeds, and a run sees the edges of its window.
    assert abs(fmean(differences)) <= 3 * error + 0.03 * fmean(sizes)


def test_more_requests_a_second_wait_longer() -> None:
    means = []
    for rate in (0.3, 0.6, 0.9, 1.2):
        random = Random(5)
        arrivals = Poisson(rate, random.expovariate, drawing(random, exponential))
        run = watch(
            Server(costs=Even(), arrivals=arrivals, rules=Rules(seats=1, budget=9), room=ENDLESS), 4000
        )
        means.append(fmean(request.ttft_s for request in run.requests))

    assert means == sorted(means)
