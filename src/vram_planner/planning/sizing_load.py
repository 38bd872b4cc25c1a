"""How many requests one replica carries within the limits, and how many are in flight under a load."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from vram_planner.planning.performance import Assumptions, Band
from vram_planner.planning.performance_constants import spread
from vram_planner.planning.performance_model import band_class, times
from vram_planner.planning.sizing_request import EXPECTED

if TYPE_CHECKING:
    from vram_planner.planning.performance import Served
    from vram_planner.planning.performance_model import Card, Constants, Load, Times
    from vram_planner.planning.performance_work import Work
    from vram_planner.planning.sizing_request import SizeRequest

KV_ROOM, PLACES, FIRST, EACH = "KV room", "max_num_seqs", "TTFT", "TPOT"
_ROUNDS = 24
_CLOSE = 1e-4


class Edge(NamedTuple):
    """The most requests in flight at which everything asked still holds, and what breaks with one more."""

    in_flight: int
    breaks: str


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Replica:
    """One replica on its cards, ready to be asked for its times at any number of requests in flight."""

    served: Served
    work: Work
    card: Card
    fitted: Constants
    load: Load
    request: SizeRequest
    held_share: float = 1.0

    @classmethod
    def of(cls, served: Served, work: Work, request: SizeRequest, held_share: float) -> Replica | None:
        """None where the card's bandwidth or peak is not known; `held_share` of a full context is what a request holds."""
        made = served.rates()
        if made is None:
            return None
        load = served.load(Assumptions(prompt=request.prompt, output=request.output))
        share = held_share if request.room == EXPECTED else 1.0
        # Room for what the edge asks for: then nothing waits for the cache.
        load = replace(load, room=max(1.0, served.capacity.max_concurrency / share))
        return cls(served=served, work=work, card=made[0], fitted=made[1], load=load, request=request,
                   held_share=held_share)  # fmt: skip

    @property
    def kept(self) -> float:
        """The share of a full context that room is kept for: all of it, or what is expected."""
        return self.held_share if self.request.room == EXPECTED else 1.0

    @property
    def groups(self) -> int:
        """Data-parallel ranks, or groups of attention, over which requests are dealt out evenly."""
        layout = self.served.ask.layout
        return layout.dp * layout.attention_dp

    @property
    def is_measured(self) -> bool:
        """
        Whether the bands hold: for replicas within a node, each token's experts on the ranks of its own attention.

        What crosses the network between nodes is not modelled, and groups that share experts are not among the rows
        that the bands were taken from.
        """
        return self.groups == 1 and self.served.ask.layout.gpus <= self.request.node_of(self.served.gpu)

    def at(self, in_flight: float) -> Times:
        """Steady state with so many requests in flight on all groups."""
        each = max(1.0, in_flight / self.groups)
        return times(self.work, self.card, self.fitted, replace(self.load, concurrency=each))

    def service_s(self, found: Times) -> float:
        """From the request to its last token."""
        return found.ttft_s + max(0, self.request.output - 1) * found.tpot_s

    def spread(self, figure: str) -> tuple[float, float]:
        """Factors of the band of a figure here."""
        kind = band_class(self.work, self.card, self.fitted, self.served.kind)
        return spread(self.served.engine, figure, kind, self.served.setting)

    def band(self, figure: str, best: float) -> Band:
        """A figure with its band."""
        low, high = self.spread(figure)
        return Band(best * low, best, best * high)

    def edge(self, *, surely: bool) -> Edge:
        """
        The largest whole number in flight within KV room less the bytes to spare, max_num_seqs and both limits.

        `surely` counts the high end of the bands against the limits. 0 in flight: not even one alone.
        """
        limits = [
            (name, limit, "ttft" if name == FIRST else "tpot")
            for name, limit in ((FIRST, self.request.ttft_s), (EACH, self.request.tpot_s))
            if limit is not None
        ]
        factors = {figure: self.spread(figure)[1] if surely else 1.0 for _, _, figure in limits}

        def broken(count: int) -> str | None:
            found = self.at(count)
            taken = {"ttft": found.ttft_s, "tpot": found.tpot_s}
            over = [
                (taken[figure] * factors[figure] / limit, name)
                for name, limit, figure in limits
                if taken[figure] * factors[figure] > limit
            ]
            return max(over)[1] if over else None

        needed = max(1, self.served.memory.kv.bytes_per_request) * self.kept
        spared = self.request.spare.n_bytes / needed
        room = max(0, int(self.served.capacity.max_concurrency / self.kept - spared)) * self.groups
        places = int(self.load.most) * self.groups
        most, first = (room, KV_ROOM) if room <= places else (places, PLACES)
        if most < 1 or (why := broken(most)) is None:
            return Edge(max(0, most), first)
        low, high = 0, most
        while high - low > 1:
            middle = (low + high) // 2
            reason = broken(middle)
            if reason is None:
                low = middle
            else:
                high, why = middle, reason
        if high == 1:
            why = broken(1) or why
        return Edge(low, why)

    def carries(self, in_flight: float) -> float:
        """
        The load (users, or requests a second) that keeps so many in flight: Little's law.

        users  n · (S + Z) / S      rate  n / S      S  stay of a request, Z  think time
        """
        stay = self.service_s(self.at(in_flight))
        return in_flight * (stay + self.request.think_s) / stay if self.request.users else in_flight / stay

    def in_flight(self, load: float, most: float) -> float:
        """
        The mean number in flight under a load that `most` carry: where n = U · S(n) / (S(n) + Z), or λ · S(n).

        S grows with n, but slower than n: found by halving.
        """
        if self.request.users and not self.request.think_s:
            return load
        low, high = 0.0, most
        for _ in range(_ROUNDS):
            middle = (low + high) / 2
            if self._wanted(load, middle) > middle:
                low = middle
            else:
                high = middle
            if high - low < _CLOSE * high:
                break
        return high

    def _wanted(self, load: float, in_flight: float) -> float:
        stay = self.service_s(self.at(in_flight))
        return load * stay / (stay + self.request.think_s) if self.request.users else load * stay
