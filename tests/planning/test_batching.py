"""The simulation's core against closed forms of queueing theory, with steps of even length in place of a model's."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, sqrt
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vram_planner.planning.arrivals import Poisson, Users
from vram_planner.planning.batching import Server
from vram_planner.planning.batching_parts import Outlook, Request, Room, Rules
from vram_planner.planning.performance_model import Step
from vram_planner.planning.simulate import half_width, watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STEP_S = 1 / 400
ENDLESS = Room(inf, 1 << 30, (0.0, 1.0, 1.0), 0.0)


@dataclass
class Even:
    """Every step takes as long, whatever is in it: then c seats are c servers."""

    step_s: float = STEP_S
    seen: list[tuple[int, tuple[tuple[int, int], ...]]] = field(default_factory=list)

    def step(self, batch: int, context: float, chunks: Sequence[tuple[int, int]]) -> Step:  # noqa: ARG002
        self.seen.append((batch, tuple(chunks)))
        return Step(0.0, 0.0, self.step_s, 0.0)

    def late_s(self, batch: int, context: float) -> float:  # noqa: ARG002
        return 0.0


def room(blocks: int, block: int = 16) -> Room:
    return Room(float(blocks), block, tuple(float(count) for count in range(10_000)), 1.0)


def drawing(random: Random, draw: Callable[[Random], int]) -> Callable[[], tuple[int, int]]:
    return lambda: (1, draw(random))


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
) -> None:
    random = Random(seed)
    arrivals = Poisson(
        rate, random.expovariate, lambda: (random.randint(1, 200), random.randint(1, 160)), most=80
    )
    rules = Rules(seats=seats, budget=budget, mixes=mixes, whole_prompt=whole, reserves=reserves)
    server = Server(costs=Even(), arrivals=arrivals, rules=rules, room=room(blocks), prefix_hit=hit)
    ended = list(server.run())
    tally = server.tally

    assert len(ended) == 80
    assert all(request.given == request.output for request in ended)
    assert tally.tokens == sum(request.output for request in ended)
    assert tally.peak <= blocks
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


def run_out(*lengths: tuple[int, int], blocks: int, rules: Rules) -> tuple[Server, list[Request], Even]:
    left = iter(lengths)
    arrivals = Poisson(1e9, lambda _: 0.0, lambda: next(left), most=len(lengths))
    costs = Even()
    server = Server(costs=costs, arrivals=arrivals, rules=rules, room=room(blocks))
    return server, list(server.run()), costs


def test_a_full_cache_puts_out_the_latest_and_starts_it_again() -> None:
    # Two requests grow from 2 to 5 blocks each; with 8 blocks the second must go, and is computed anew.
    server, ended, costs = run_out((32, 48), (32, 48), blocks=8, rules=Rules(seats=4, budget=1000))

    assert [request.number for request in ended] == [0, 1]
    assert [request.put_out for request in ended] == [0, 1]
    assert server.tally.put_out == 1
    again = [chunks for _, chunks in costs.seen if chunks][-1]
    # 32 prompt tokens and what it had given, in one step.
    assert again[0][0] == 0
    assert 32 < again[0][1] < 80


def test_prompts_are_filled_in_chunks_beside_decoding() -> None:
    _, _, costs = run_out((10, 50), (250, 2), blocks=1000, rules=Rules(seats=4, budget=100))
    steps = [(batch, chunks) for batch, chunks in costs.seen if chunks]

    # The first step: all of the first prompt and 90 of the second; then one token goes to the one that decodes.
    assert steps == [(0, ((0, 10), (0, 90))), (1, ((90, 189),)), (1, ((189, 250),))]


def test_prompts_go_before_decoding_where_an_engine_does_not_mix() -> None:
    _, _, costs = run_out((10, 50), (250, 2), blocks=1000, rules=Rules(seats=4, budget=100, mixes=False))
    steps = [(batch, chunks) for batch, chunks in costs.seen if chunks]

    assert steps == [(0, ((0, 10), (0, 90))), (0, ((90, 190),)), (0, ((190, 250),))]


def test_seats_bound_what_runs() -> None:
    server, ended, costs = run_out(*[(16, 20)] * 10, blocks=1000, rules=Rules(seats=3, budget=1000))

    assert max(batch for batch, _ in costs.seen) <= 3
    assert sqrt(len(ended)) > 3
    assert server.tally.no_seat_s > 0
