"""One way to carry the load, with its figures: looked at as a plan of its own before it is shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Any

from vram_planner.engines.layouts import replica_warning
from vram_planner.hardware_profiles.find import GpuChoice
from vram_planner.hardware_profiles.links import link_of
from vram_planner.planning.estimate import estimate
from vram_planner.planning.performance import Band
from vram_planner.planning.prices import HOURS_A_MONTH
from vram_planner.planning.sizing_launch import Start, starts
from vram_planner.planning.sizing_load import KV_ROOM, Edge

if TYPE_CHECKING:
    from vram_planner.architecture.parallel import Layout
    from vram_planner.hardware_profiles import Gpu
    from vram_planner.model_profiles.resolve import ModelProfile
    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.planning.sizing_load import Replica
    from vram_planner.planning.sizing_request import SizeRequest

_LINKS = {
    "nvlink": "NVLink or the like",
    "pcie": "PCIe",
    "host": "PCIe through the host",
    "network": "network",
}
_MOST_TRIES = 24
_ROUNDING = 1e-9
_SECONDS_AN_HOUR = 3600
_DOUBLE = 2.0


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Draft:
    """A replica, how many of it carry the load, and whether they do at the high end of the bands too."""

    profile: ModelProfile
    replica: Replica
    edge: Edge
    carried: float
    count: int
    sure: bool

    @property
    def gpus(self) -> int:
        """Cards in all."""
        return self.count * self.replica.served.ask.layout.gpus

    @cached_property
    def tpot_s(self) -> float:
        """Seconds a token where the edge of the limits is: to compare layouts with."""
        return self.replica.at(self.edge.in_flight).tpot_s


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Option:
    """
    Cards that carry the load by the best estimate; `surely` says that they do at the high end of every band too
    (never of a replica that spans nodes: what crosses the network there is not modelled; nor of groups that share
    experts: their speed was not measured).

    `replicas` of `tp` × `pp` × `dp` cards each stand behind a router that deals requests out evenly; `link` joins the
    cards of a replica. `dp` ranks of vLLM with `ep`, or `attention_dp` groups of the tp ranks, share one set of experts. `in_flight` is the mean over all replicas, `at_once` how many requests of full context all hold.
    `ttft_s`, `tpot_s` and `tokens_per_s` are at the asked load. `carries` is the load (users, or requests a second)
    at which the first limit is reached, `breaks_first` which one; `survives_double` whether that is beyond twice.
    Costs are None where a card has no price. Bytes are those of the fullest card.
    """

    model: str
    quant: str
    gpu: str
    gpus: int
    replicas: int
    tp: int
    pp: int
    dp: int
    ep: bool
    attention_dp: int
    nodes: int
    link: str | None
    surely: bool
    verdict: str
    in_flight: float
    at_once: float
    ttft_s: Band
    tpot_s: Band
    tokens_per_s: Band
    carries: float
    load_headroom: float
    breaks_first: str
    survives_double: bool
    total_bytes: int
    usable_bytes: int
    headroom_bytes: int
    power_w: int | None
    cost_per_hour: float | None
    cost_per_month: float | None
    cost_per_million_tokens: Band | None
    cost_source: str | None
    currency: str
    launch: tuple[Start, ...]
    warnings: tuple[str, ...]
    pareto: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data, in the units that the keys name."""
        return asdict(self)

    def to_row(self) -> dict[str, Any]:
        """One row of plain columns: bands as _low, _best and _high, launch lines joined."""
        row: dict[str, Any] = {}
        for name, value in self.to_dict().items():
            if isinstance(getattr(self, name), Band):
                row.update({f"{name}_{end}": amount for end, amount in value.items()})
            elif name == "launch":
                row[name] = "; ".join(f"{start['where']}: {start['command']}" for start in value)
            elif name == "warnings":
                row[name] = "; ".join(value)
            elif name == "cost_per_million_tokens":
                row.update({f"{name}_{end}": None for end in ("low", "best", "high")})
            else:
                row[name] = value
        return row


def option_of(draft: Draft, request: SizeRequest, model: str, quant: str | None) -> Option | None:
    """The draft as an option, its edge held by a plan of its own; None where no number in flight is."""
    settled = _settled(draft, request, (model, quant))
    if settled is None:
        return None
    draft, full = settled
    replica, load = draft.replica, float(request.users or request.rate or 0)
    layout, count = replica.served.ask.layout, draft.count
    flying = replica.in_flight(load / count, draft.edge.in_flight)
    plan = _plan(draft, request, (model, quant), ceil(flying))
    if draft.gpus > request.max_gpus or plan.gpu is None or plan.capacity is None:
        return None
    found = replica.at(flying)
    ttft, tpot = replica.band("ttft", found.ttft_s), replica.band("tpot", found.tpot_s)
    served = _tokens_per_s(request, load, (ttft, tpot))
    node = request.node_of(replica.served.gpu)
    cost = _Cost(request, replica.served.gpu, count * layout.gpus)
    carried = draft.carried * count
    return Option(
        model=draft.profile.name,
        quant=replica.served.ask.precision.name,
        gpu=replica.served.gpu.name,
        gpus=count * layout.gpus,
        replicas=count,
        tp=layout.tp,
        pp=layout.pp,
        dp=layout.dp,
        ep=layout.expert_parallel,
        attention_dp=layout.attention_dp,
        nodes=_nodes(count, layout.gpus, node),
        link=_link(replica.served.gpu, layout, node),
        surely=draft.sure and plan.verdict == "fits" and replica.is_measured,
        verdict=plan.verdict or "",
        in_flight=flying * count,
        at_once=plan.capacity.max_concurrency * replica.groups * count,
        ttft_s=ttft,
        tpot_s=tpot,
        tokens_per_s=served,
        carries=carried,
        load_headroom=carried / load - 1,
        breaks_first=draft.edge.breaks,
        survives_double=carried >= _DOUBLE * load,
        total_bytes=plan.total_bytes,
        usable_bytes=plan.gpu.usable_bytes,
        headroom_bytes=plan.headroom_bytes or 0,
        power_w=cost.power_w,
        cost_per_hour=cost.per_hour,
        cost_per_month=None if cost.per_hour is None else cost.per_hour * HOURS_A_MONTH,
        cost_per_million_tokens=cost.per_million(served),
        cost_source=cost.source,
        currency=request.prices.currency,
        launch=starts(full.launch, layout, engine=replica.served.engine, replicas=count, node_gpus=node),
        warnings=_warnings(plan, replica, ceil(flying)),
    )


def _settled(
    draft: Draft, request: SizeRequest, asked: tuple[str, str | None]
) -> tuple[Draft, MemoryPlan] | None:
    """
    The draft with an edge whose plan fits, and that plan: the one to start, for its slots serve all that it carries.

    What an engine spends may grow with the number in flight, so that there is room for fewer than one request tells.
    """
    edge, load = draft.edge, float(request.users or request.rate or 0)
    for _ in range(_MOST_TRIES):
        plan = _plan(draft, request, asked, edge.in_flight)
        if plan.fits:
            carried = draft.replica.carries(edge.in_flight)
            count = max(draft.count, ceil(load / carried - _ROUNDING))
            return replace(draft, edge=edge, carried=carried, count=count), plan
        room = int(plan.capacity.max_concurrency) * draft.replica.groups if plan.capacity else 0
        edge = Edge(min(room, edge.in_flight * 7 // 8), KV_ROOM)
        if edge.in_flight < 1:
            break
    return None


def _plan(draft: Draft, request: SizeRequest, asked: tuple[str, str | None], in_flight: int) -> MemoryPlan:
    """One replica with so many in flight, as the plain command would plan it."""
    layout, gpu = draft.replica.served.ask.layout, draft.replica.served.gpu
    model, quant = asked
    wanted = request.plan_request(
        model,
        quant,
        concurrency=max(1, in_flight),
        tp=layout.tp,
        pp=layout.pp,
        gpu_count=layout.gpus,
        calibration=False,
        **_groups(layout, request),
    )
    return estimate(wanted, GpuChoice(gpu, layout.gpus, gpu.name))


def _groups(layout: Layout, request: SizeRequest) -> dict[str, Any]:
    """What a plan is asked for beside tp and pp, where groups share experts."""
    if layout.dp > 1:
        return {"dp": layout.dp, "ep": True}
    if layout.attention_dp > 1:
        return {"dp_attention": True, "dp": layout.attention_dp, "ep": bool(request.options.get("ep"))}
    return {}


def _warnings(plan: MemoryPlan, replica: Replica, flying: int) -> tuple[str, ...]:
    """Those of the plan, but that capacity is one group's: here it is that of all."""
    ask = replica.served.ask
    counted = replica_warning(replace(ask, workload=replace(ask.workload, concurrency=max(1, flying))))
    return tuple(text for text in plan.warnings if text not in counted)


def _tokens_per_s(request: SizeRequest, load: float, times: tuple[Band, Band]) -> Band:
    """Users: U · O / (S + Z); a rate gives λ · O whatever the speed."""
    output = request.output
    if request.rate:
        return Band(load * output, load * output, load * output)
    ttft, tpot = times

    def served(first: float, each: float) -> float:
        return load * output / (first + (output - 1) * each + request.think_s)

    return Band(served(ttft.high, tpot.high), served(ttft.best, tpot.best), served(ttft.low, tpot.low))


def _nodes(replicas: int, gpus: int, node_gpus: int) -> int:
    if gpus <= node_gpus:
        return ceil(replicas / (node_gpus // gpus))
    return replicas * ceil(gpus / node_gpus)


def _link(gpu: Gpu, layout: Layout, node_gpus: int) -> str | None:
    if layout.gpus == 1:
        return None
    ranks = min(node_gpus, max(layout.tp, layout.expert_ranks))
    within = _LINKS[link_of(gpu, ranks, layout.gpus).kind]
    return within if layout.gpus <= node_gpus else f"{within} in a node, network between nodes"


class _Cost:
    """What so many of a card cost, rented or bought; None where there is no price."""

    def __init__(self, request: SizeRequest, gpu: Gpu, gpus: int) -> None:
        self.power_w = None if gpu.tdp_w is None else gpu.tdp_w * gpus
        self.utilisation = request.utilisation
        self.per_hour: float | None = None
        self.source: str | None = None
        buying, prices = request.buying, request.prices
        if buying is None:
            found = prices.rent(gpu)
            if found is not None:
                self.per_hour, self.source = found[0] * gpus, f"rent: {found[1]}"
            return
        bought = (buying.price, "as given") if buying.price is not None else prices.purchase(gpu)
        if bought is None or (gpu.tdp_w is None and buying.power_price):
            return
        self.per_hour = buying.per_hour(bought[0], gpu.tdp_w or 0, request.utilisation) * gpus
        self.source = f"purchase: {bought[1]}"

    def per_million(self, served: Band) -> Band | None:
        """Cost of a million generated tokens, when the load is there for `utilisation` of the time."""
        if self.per_hour is None:
            return None
        money = self.per_hour * 1e6 / (_SECONDS_AN_HOUR * self.utilisation)
        return Band(money / served.high, money / served.best, money / served.low)
