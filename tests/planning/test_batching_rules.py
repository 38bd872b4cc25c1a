"""What each kind of scheduler starts, fills, holds up and puts out, seen step by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from vram_planner.planning.arrivals import Poisson
from vram_planner.planning.batching import Server
from vram_planner.planning.batching_parts import Outlook, Request, Room, Rules
from vram_planner.planning.performance_model import Step

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class Seen:
    """Steps of even length, kept as they were asked for."""

    seen: list[tuple[int, tuple[tuple[int, int], ...]]] = field(default_factory=list)

    def step(self, batch: int, context: float, chunks: Sequence[tuple[int, int]]) -> Step:  # noqa: ARG002
        self.seen.append((batch, tuple(chunks)))
        return Step(0.0, 0.0, 1 / 400, 0.0)

    def late_s(self, batch: int, context: float) -> float:  # noqa: ARG002
        return 0.0


def run_out(*lengths: tuple[int, int], blocks: int, rules: Rules) -> tuple[Server, list[Request], Seen]:
    left = iter(lengths)
    room = Room(float(blocks), 16, tuple(float(count) for count in range(10_000)), 1.0)
    arrivals = Poisson(1e9, lambda _: 0.0, lambda: next(left), most=len(lengths))
    costs = Seen()
    server = Server(costs=costs, arrivals=arrivals, rules=rules, room=room)
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
    assert len(ended) == 10
    assert server.tally.no_seat_s > 0


def test_an_old_server_leaves_a_share_of_its_cache_free_when_it_starts_a_request() -> None:
    lengths = [(16, 300)] * 12
    rules = Rules(seats=99, budget=1000, mixes=False)
    _, _, all_of_it = run_out(*lengths, blocks=20, rules=rules)
    _, _, less = run_out(*lengths, blocks=20, rules=rules._replace(watermark=0.5))

    # 12 prompts of a block fit into 20 blocks, ten into a half of them.
    assert all_of_it.seen[0] == (0, ((0, 16),) * 12)
    assert less.seen[0] == (0, ((0, 16),) * 10)


def test_a_server_that_looks_ahead_keeps_room_for_what_those_that_run_may_give() -> None:
    # 16 + 144 tokens are 10 blocks: two together want 20 to start in one step. Beside one that has given a token, for
    # which 16 + 0.7 · 143 tokens are kept, 8 blocks, the second wants 18.
    looks = Rules(seats=9, budget=1000, mixes=False, outlook=Outlook())
    for blocks, at_once, together in ((17, 1, 1), (18, 1, 2), (20, 2, 2)):
        _, _, costs = run_out((16, 144), (16, 144), blocks=blocks, rules=looks)
        assert len(costs.seen[0][1]) == at_once, blocks
        assert max(batch for batch, _ in costs.seen) == together, blocks
    # What clients ask for counts, not what comes out of it.
    _, _, costs = run_out((16, 40), (16, 40), blocks=12, rules=looks._replace(limit=144, longest=160))
    assert max(batch for batch, _ in costs.seen) == 1


def test_a_server_that_looks_ahead_puts_out_who_has_given_least() -> None:
    # Both start, for little is kept; the cache fills up, and the later, which has given less, goes to the end.
    looks = Outlook(first=0.1, least=0.01, steps=10, clip=4096, ahead=20)
    rules = Rules(seats=9, budget=16, mixes=False, outlook=looks)
    server, ended, _ = run_out((16, 144), (16, 140), (16, 4), blocks=16, rules=rules)

    assert server.tally.put_out >= 1
    assert next(r for r in ended if r.number == 0).put_out == 0
    assert {r.number for r in ended if r.put_out} == {1}
    assert all(r.given == r.output for r in ended)


def test_the_share_kept_falls_with_each_step_and_is_estimated_anew() -> None:
    looks = Outlook()
    # SGLANG_INIT_NEW_TOKEN_RATIO 0.7, factor 0.14, 600 steps.
    assert looks.after(0.7, 300) == pytest.approx((0.7 + 0.098) / 2)
    assert looks.after(0.7, 10_000) == pytest.approx(0.098)
    running = [Request(0, 0.0, 10, 50, 10, 100, given=30), Request(1, 0.0, 10, 50, 10, 59, given=10)]
    # (30 + 10 + 2 · 20) / (100 + 59 + 1)
    assert looks.again(running) == pytest.approx(0.5)
    assert looks.left(Request(0, 0.0, 10, 50, 10, 9000)) == 4096


def test_what_is_reserved_is_what_clients_ask_for() -> None:
    rules = Rules(seats=9, budget=1000, reserves=True)
    _, _, exact = run_out(*[(16, 16)] * 4, blocks=8, rules=rules)
    _, _, asked = run_out(*[(16, 16)] * 4, blocks=8, rules=rules._replace(limit=48, longest=64))

    assert max(batch for batch, _ in exact.seen) == 4
    assert max(batch for batch, _ in asked.seen) == 2
