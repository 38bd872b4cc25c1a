"""Why a card carries the load in no layout: the nearest of them, each with its reason in one line."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from vram_planner.planning.sizing_load import EACH, FIRST
from vram_planner.units import GIB

if TYPE_CHECKING:
    from vram_planner.architecture.parallel import Layout
    from vram_planner.planning.sizing_load import Edge, Replica
    from vram_planner.planning.sizing_request import SizeRequest

MEMORY, CARDS, HEADROOM, LAYOUT, SPEED, CARD = "memory", "max_gpus", "headroom", "layout", "speed", "card"
_STAGES = (HEADROOM, CARDS, FIRST, EACH, MEMORY, SPEED, LAYOUT, CARD)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Refused:
    """
    A card in the layout that comes nearest to what was asked, and why it is refused.

    `why` is 'memory' (one request has no room), 'TTFT' or 'TPOT' (missed by a single request), 'headroom' or
    'max_gpus' (more cards than are allowed), 'layout', 'speed' or 'card' (the engine does not run there). `excess` is by
    how many times it misses, None where that is no number. `gpus` are those of one replica, but all that would be needed
    for 'headroom' and 'max_gpus'.
    """

    model: str
    quant: str
    gpu: str
    gpus: int
    tp: int
    pp: int
    dp: int
    attention_dp: int
    why: str
    reason: str
    excess: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @property
    def distance(self) -> tuple[int, float]:
        """To sort by, the nearest first: how far it came of room, limits, load and head-room, then by how much it missed."""
        return _STAGES.index(self.why), inf if self.excess is None else self.excess


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Miss:
    """A card that holds the model and misses a limit even with one request in flight: by `excess` times."""

    model: str
    quant: str
    gpu: str
    gpus: int
    tp: int
    pp: int
    dp: int
    attention_dp: int
    breaks: str
    figure_s: float
    excess: float


@dataclass(frozen=True, slots=True)
class Refusals:
    """Of one model in one format: makes the refusals of cards and layouts."""

    request: SizeRequest
    model: str
    quant: str

    def of(self, gpu: str, layout: Layout, why: str, reason: str, excess: float | None = None) -> Refused:
        """Of one layout; `excess` None where it is not a matter of more or less."""
        return Refused(
            model=self.model,
            quant=self.quant,
            gpu=gpu,
            gpus=layout.gpus,
            tp=layout.tp,
            pp=layout.pp,
            dp=layout.dp,
            attention_dp=layout.attention_dp,
            why=why,
            reason=reason,
            excess=excess,
        )

    def short(self, gpu: str, layout: Layout, missing_bytes: int, usable_bytes: int) -> Refused:
        """One request does not fit."""
        reason = (
            f"{max(0, missing_bytes) / GIB:.1f} GiB short on each GPU for one request of"
            f" {self.request.ctx:,} tokens, of {usable_bytes / GIB:.1f} GiB usable"
        )
        excess = 1 + max(0, missing_bytes) / usable_bytes if usable_bytes > 0 else None
        return self.of(gpu, layout, MEMORY, reason, excess)

    def slow(self, replica: Replica, edge: Edge) -> Refused:
        """One request alone misses a limit, or leaves less room than is to be left."""
        gpu, layout = replica.served.gpu.name, replica.served.ask.layout
        times = {
            FIRST: (replica.at(1).ttft_s, self.request.ttft_s),
            EACH: (replica.at(1).tpot_s, self.request.tpot_s),
        }
        figure, limit = times.get(edge.breaks, (0.0, None))
        if limit is None:
            return self.of(gpu, layout, HEADROOM, f"less than {self._spare()} left beside one request")
        shown = f"{figure * 1000:.0f} ms" if figure < 1 else f"{figure:.2f} s"
        reason = f"{edge.breaks} {shown} with a single request, {figure / limit:.1f} times the limit"
        return self.of(gpu, layout, edge.breaks, reason, figure / limit)

    def too_many(self, replica: Replica, carried: float, gpus: int) -> Refused:
        """More cards than are allowed, for the load or for what is to be left beside it."""
        request, layout = self.request, replica.served.ask.layout
        load = float(request.users or request.rate or 0)
        most = request.max_gpus // layout.gpus * carried
        why, reason = CARDS, f"{gpus:,} GPUs for the load, --max-gpus is {request.max_gpus:,}"
        if most >= load:
            why = HEADROOM
            reason = (
                f"head-room {most / load - 1:.0%} with at most {request.max_gpus:,} GPUs, asked {self._spare()}:"
                f" that takes {gpus:,}"
            )
        found = self.of(replica.served.gpu.name, layout, why, reason, gpus / request.max_gpus)
        return Refused(**{**asdict(found), "gpus": gpus})

    def _spare(self) -> str:
        spare = self.request.spare
        told = [f"{spare.share:.0%}"] if spare.share else []
        return " and ".join([*told, *([f"{spare.n_bytes / GIB:.1f} GiB a GPU"] if spare.n_bytes else [])])


def miss_of(refused: Refused, replica: Replica) -> Miss | None:
    """The same as a missed limit; None where none was missed."""
    if refused.why not in (FIRST, EACH) or refused.excess is None:
        return None
    found = replica.at(1)
    return Miss(
        model=refused.model,
        quant=refused.quant,
        gpu=refused.gpu,
        gpus=refused.gpus,
        tp=refused.tp,
        pp=refused.pp,
        dp=refused.dp,
        attention_dp=refused.attention_dp,
        breaks=refused.why,
        figure_s=found.ttft_s if refused.why == FIRST else found.tpot_s,
        excess=refused.excess,
    )
