"""What a simulated server is told and keeps: the engine's rules, the cache's room, a request, and sums over time. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vram_planner.planning.performance_model import Step

    Chunk = tuple[int, int]


class Costs(Protocol):
    """What a step takes: `batch` sequences decode at a mean `context`, and `chunks` (start, end) of prompts are filled."""

    def step(self, batch: int, context: float, chunks: Sequence[Chunk]) -> Step:
        """Its parts in seconds."""

    def late_s(self, batch: int, context: float) -> float:
        """From the end of the step to the client: constant for all tokens of the request that started then."""


class Outlook(NamedTuple):
    """
    How SGLang keeps room for the outputs of those that run: a share r of what each may still give.

    A new request starts where todo + min(limit − given, clip) < free − Σ r · min(limit − given, clip) of the running.
    r is `first` when the server has been idle, falls to `least` in `steps` decode steps, and after requests were put
    out is (Σ given + ahead · n) / (Σ limit + 1) of the n that stayed. Those with the fewest tokens given, of them the
    longest prompts, are put out first, and wait at the end of the queue.

    Source: SGLang 0.5.6, managers/schedule_policy.py, PrefillAdder; managers/schedule_batch.py, retract_decode;
    managers/scheduler.py, update_running_batch; environ.py, SGLANG_INIT_NEW_TOKEN_RATIO 0.7,
    SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR 0.14, SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS 600, SGLANG_RETRACT_DECODE_STEPS 20,
    SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION 4096.
    """

    first: float = 0.7
    least: float = 0.7 * 0.14
    steps: int = 600
    clip: int = 4096
    ahead: int = 20

    def after(self, ratio: float, steps: int) -> float:
        """The share after so many decode steps more."""
        return max(self.least, ratio - steps * (self.first - self.least) / self.steps)

    def again(self, running: Sequence[Request]) -> float:
        """The share after requests were put out and these stayed."""
        given = sum(r.given for r in running) + self.ahead * len(running)
        return min(1.0, given / (sum(r.limit for r in running) + 1))

    def left(self, request: Request) -> int:
        """What a request may still give, as far as is looked ahead."""
        return max(0, min(request.limit - request.given, self.clip))


class Rules(NamedTuple):
    """
    How an engine schedules.

    `seats` run at once, `budget` tokens a step. `mixes`: prompts are filled beside decoding, else before it.
    `whole_prompt`: a request starts only where its whole prompt has room. `reserves`: room for all that it may give is
    taken at the start, so that none is ever put out again. `watermark` is the share of the cache that a start leaves
    free. `outlook`: room is kept for the outputs of those that run. `limit` is what clients ask for at most
    (max_tokens; 0: just what comes out), `longest` the engine's longest sequence (0: no bound).
    """

    seats: int
    budget: int
    mixes: bool = True
    whole_prompt: bool = True
    reserves: bool = False
    watermark: float = 0.0
    outlook: Outlook | None = None
    limit: int = 0
    longest: int = 0

    def asked(self, prompt: int, output: int) -> int:
        """The tokens that a request may give, by what its client asked for."""
        limit = min(self.limit, self.longest - prompt) if self.longest else self.limit
        return max(output, limit)


class Room(NamedTuple):
    """The cache: what a request of so many blocks takes of `pool`, both in the same unit."""

    pool: float
    block: int
    needs: Sequence[float]
    rise: float  # the most that one more token takes

    def need(self, tokens: int) -> float:
        """What a request takes with so many tokens in the cache."""
        return self.needs[-(-tokens // self.block)]


@dataclass(slots=True, eq=False)
class Request:
    """
    One request on its way.

    Tokens in the cache (`held`), to fill before it decodes (`todo`), given (`given`), and that it may give (`limit`).
    """

    number: int
    arrived: float
    prompt: int
    output: int
    todo: int
    limit: int
    held: int = 0
    given: int = 0
    started: float = inf
    first: float = inf
    ended: float = inf
    late: float = 0.0
    put_out: int = 0

    @property
    def ttft_s(self) -> float:
        """From arrival to the first token."""
        return self.first - self.arrived + self.late

    @property
    def tpot_s(self) -> float:
        """Mean time between tokens after the first; 0 of a single token."""
        return (self.ended - self.first) / (self.output - 1) if self.output > 1 else 0.0

    @property
    def stay_s(self) -> float:
        """From arrival to the last token."""
        return self.ended - self.arrived + self.late

    @property
    def queue_s(self) -> float:
        """From arrival until it was first scheduled."""
        return self.started - self.arrived


@dataclass(slots=True)
class Tally:
    """Sums over the watched time: divide by `seconds` for means."""

    seconds: float = 0.0
    busy_s: float = 0.0
    in_system_s: float = 0.0
    running_s: float = 0.0
    used_s: float = 0.0
    peak: float = 0.0
    no_seat_s: float = 0.0
    no_room_s: float = 0.0
    steps: int = 0
    tokens: int = 0
    ended: int = 0
    refused: int = 0
    put_out: int = 0
    parts: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
