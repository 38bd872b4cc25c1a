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
from vram_planner.planning.layout_facts import nodes_of
from vram_planner.planning.performance import Band
from vram_planner.planning.prices import HOURS_A_MONTH
from vram_planner.planning.sizing_launch import Start, starts
from vram_planner.planning.sizing_load import KV_ROOM, Edge
from vram_planner.planning.sizing_request import EXPECTED

if TYPE_CHECKING:
    from vram_planner.architecture.parallel import Layout
    from vram_planner.hardware_profiles import Gpu
    from vram_planner.model_profiles.resolve import ModelProfile
    from vram_planner.planning.performance import Served
    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.planning.sizing_load import Replica
    from vram_planner.planning.sizing_refused import Refusals, Refused
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
    (never of a replica that spans nodes: none was measured; nor of groups that share
    experts: their speed was not measured; nor where the worst case has no room for what is in flight).

    `replicas` of `tp` × `pp` × `dp` cards each stand behind a router that deals requests out evenly; `link` joins the
    cards of a replica, and between its nodes the `network`, of which each card has `network_bits_per_s` (None within a node).
    `dp` ranks of vLLM with `ep`, or `attention_dp` groups of the tp ranks, share one set of experts. `in_flight` is the
    mean over all replicas; `at_once_worst` how many requests of full context all hold, `at_once_expected` how many of
    those tokens that one holds on average, and `at_once` the one of them that was asked for with `room`.
    `ttft_s`, `tpot_s` and `tokens_per_s` are at the asked load. `carries` is the load (users, or requests a second)
    at which the first limit is reached, `breaks_first` which one; `survives_double` whether that is beyond twice.
    `command` starts one replica on one machine, `launch` says what to start where.
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
    network: str | None
    network_bits_per_s: float | None
    surely: bool
    verdict: str
    in_flight: float
    at_once: float
    at_once_worst: float
    at_once_expected: float
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
    engine: str
    command: str
    launch: tuple[Start, ...]
    warnings: tuple[str, ...]
    pareto: bool = False

    @property
    def nodes_a_replica(self) -> int:
        """Nodes that one replica spans."""
        return 1 if self.network is None else self.nodes // self.replicas

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


def option_of(
    draft: Draft, request: SizeRequest, asked: tuple[str, str | None], refusals: Refusals
) -> Option | Refused:
    """The draft as an option, its edge held by a plan of its own; refused where no number in flight is, or too many cards."""
    draft, full = _settled(draft, request, asked)
    replica, load = draft.replica, float(request.users or request.rate or 0)
    layout, count = replica.served.ask.layout, draft.count
    if full.gpu is None or full.capacity is None or draft.edge.in_flight < 1:
        missing = request.spare.n_bytes - (full.headroom_bytes or 0)
        return refusals.short(
            replica.served.gpu.name, layout, missing, full.gpu.usable_bytes if full.gpu else 0
        )
    if draft.gpus > request.max_gpus:
        return refusals.too_many(replica, draft.carried, draft.gpus)
    flying = replica.in_flight(load / count, draft.edge.in_flight)
    plan = _plan(draft, request, asked, ceil(flying))
    room = full.capacity.max_concurrency * replica.groups * count
    found = replica.at(flying)
    ttft, tpot = replica.band("ttft", found.ttft_s), replica.band("tpot", found.tpot_s)
    served = _tokens_per_s(request, load, (ttft, tpot))
    node = request.node_of(replica.served.gpu)
    between = request.servers.network_of(replica.served.gpu) if layout.gpus > node else None
    carried = draft.carried * count
    return Option(
        model=draft.profile.name,
        quant=replica.served.ask.precision.name,
        gpu=replica.served.gpu.name,
        gpus=count * layout.gpus,
        replicas=count,
        **{name: getattr(layout, name) for name in ("tp", "pp", "dp", "attention_dp")},
        ep=layout.expert_parallel,
        nodes=_nodes(count, layout, node),
        link=_link(replica.served, node),
        network=between.name if between else None,
        network_bits_per_s=between.bytes_per_s * 8 if between else None,
        surely=draft.sure and plan.verdict == "fits" and replica.is_measured and flying * count <= room,
        verdict=plan.verdict or "",
        in_flight=flying * count,
        at_once=room / replica.kept,
        at_once_worst=room,
        at_once_expected=room / replica.held_share,
        ttft_s=ttft,
        tpot_s=tpot,
        tokens_per_s=served,
        carries=carried,
        load_headroom=carried / load - 1,
        breaks_first=draft.edge.breaks,
        survives_double=carried >= _DOUBLE * load,
        total_bytes=plan.total_bytes,
        usable_bytes=full.gpu.usable_bytes,
        headroom_bytes=plan.headroom_bytes or 0,
        **_Cost(request, replica.served.gpu, count * layout.gpus).figures(served),
        currency=request.prices.currency,
        engine=replica.served.engine,
        command=full.launch,
        launch=starts(full.launch, layout, engine=replica.served.engine, replicas=count, node_gpus=node),
        warnings=(*_warnings(plan, replica, ceil(flying)), *_expecting(request)),
    )


def _settled(draft: Draft, request: SizeRequest, asked: tuple[str, str | None]) -> tuple[Draft, MemoryPlan]:
    """
    The draft with an edge whose plan fits, and that plan: the one to start, for its slots serve all that it carries.

    What an engine spends may grow with the number in flight, so that there is room for fewer than one request tells.
    An edge of 0 where not even one fits.
    """
    edge, wanted = draft.edge, float(request.users or request.rate or 0) * (1 + request.spare.share)
    plan = _plan(draft, request, asked, edge.in_flight)
    for _ in range(_MOST_TRIES):
        if (plan.headroom_bytes or 0) >= request.spare.n_bytes and plan.fits:
            carried = draft.replica.carries(edge.in_flight)
            count = max(draft.count, ceil(wanted / carried - _ROUNDING))
            return replace(draft, edge=edge, carried=carried, count=count), plan
        room = (
            plan.capacity.max_concurrency / draft.replica.kept * draft.replica.groups if plan.capacity else 0
        )
        edge = Edge(min(int(room), edge.in_flight * 7 // 8), KV_ROOM)
        if edge.in_flight < 1:
            break
        plan = _plan(draft, request, asked, edge.in_flight)
    return replace(draft, edge=Edge(0, KV_ROOM)), plan


def _plan(draft: Draft, request: SizeRequest, asked: tuple[str, str | None], in_flight: int) -> MemoryPlan:
    """
    One replica with so many in flight, as the plain command would plan it.

    Where room is kept for what is expected, as many of full context as take the same bytes.
    """
    in_flight = ceil(in_flight * draft.replica.kept - _ROUNDING)
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
    return estimate(wanted, GpuChoice(gpu, layout.gpus, gpu.name, request.servers))


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


def _expecting(request: SizeRequest) -> tuple[str, ...]:
    if request.room != EXPECTED:
        return ()
    text = (
        f"the cache has room for requests of {request.held:,} tokens, what one holds on average: when more of them are long"
        " than usual, requests wait, or are preempted and computed again (vram-plan simulate shows how often)"
    )
    return (text,)


def _tokens_per_s(request: SizeRequest, load: float, times: tuple[Band, Band]) -> Band:
    """Users: U · O / (S + Z); a rate gives λ · O whatever the speed."""
    output = request.output
    if request.rate:
        return Band(load * output, load * output, load * output)
    ttft, tpot = times

    def served(first: float, each: float) -> float:
        return load * output / (first + (output - 1) * each + request.think_s)

    return Band(served(ttft.high, tpot.high), served(ttft.best, tpot.best), served(ttft.low, tpot.low))


def _nodes(replicas: int, layout: Layout, node_gpus: int) -> int:
    if layout.gpus <= node_gpus:
        return ceil(replicas / (node_gpus // layout.gpus))
    return replicas * nodes_of(layout, node_gpus)


def _link(served: Served, node_gpus: int) -> str | None:
    gpu, layout = served.gpu, served.ask.layout
    if layout.gpus == 1:
        return None
    ranks = min(node_gpus, max(layout.tp, layout.expert_ranks))
    within = _LINKS[link_of(gpu, ranks, layout.gpus, served.servers).kind]
    if layout.gpus <= node_gpus:
        return within
    network = served.servers.network_of(gpu).name
    return f"{within} in a node, {network} between nodes" if node_gpus > 1 else network


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

    def figures(self, served: Band) -> dict[str, Any]:
        """The fields of an option."""
        return {
            "power_w": self.power_w,
            "cost_per_hour": self.per_hour,
            "cost_per_month": None if self.per_hour is None else self.per_hour * HOURS_A_MONTH,
            "cost_per_million_tokens": self.per_million(served),
            "cost_source": self.source,
        }

    def per_million(self, served: Band) -> Band | None:
        """Cost of a million generated tokens, when the load is there for `utilisation` of the time."""
        if self.per_hour is None:
            return None
        money = self.per_hour * 1e6 / (_SECONDS_AN_HOUR * self.utilisation)
        return Band(money / served.high, money / served.best, money / served.low)
