"""Which cards, how many and in what layout carry a load within its limits, ranked by what they cost."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from vram_planner.architecture.parallel import Layout, why_not_tp
from vram_planner.errors import PlannerError, RequestError
from vram_planner.hardware_profiles import all_gpus, find_gpu
from vram_planner.hardware_profiles.links import link_inside
from vram_planner.planning.candidates import device_of
from vram_planner.planning.estimate import prepare
from vram_planner.planning.performance import Served
from vram_planner.planning.plan import headroom
from vram_planner.planning.sizing_load import Edge, Replica
from vram_planner.planning.sizing_option import Draft, Option, option_of
from vram_planner.planning.sizing_refused import (
    CARD,
    CARDS,
    HEADROOM,
    LAYOUT,
    SPEED,
    Miss,
    Refusals,
    Refused,
    miss_of,
)
from vram_planner.planning.sizing_request import PAGED
from vram_planner.planning.sizing_result import Sizing, ranked

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from vram_planner.engines.base import Ask, Memory
    from vram_planner.hardware_profiles import Gpu
    from vram_planner.planning.estimate import Prepared
    from vram_planner.planning.performance_work import Work
    from vram_planner.planning.sizing_request import SizeRequest

_POWERS = (1, 2, 4, 8, 16, 32, 64)
# More stages in a node were not measured, and what they send to each other is not modelled.
_STAGES = 2
_ACROSS_NODES = (2, 4)
_SPANS_NODES = frozenset({"vllm"})
_GROUPS = (2, 4, 8)
_WIDE = 2  # nodes over which one set of experts is dealt out
_TOO_FAR = 2.0  # a faster layout with more than twice the cards of the smallest is no alternative to it


class _Known(NamedTuple):
    """
    What does not depend on the card beyond what an engine looks at: one replica's memory and its work.

    `held_share` is what a request holds of the cache on average, as a share of one of full context.
    """

    memory: Memory
    work: Work | None
    held_share: float


class _Search:
    """One model in one format over cards and layouts."""

    def __init__(self, request: SizeRequest, prepared: Prepared) -> None:
        self.request = request
        self.prepared = prepared
        self.known: dict[tuple[Layout, Hashable], _Known | PlannerError] = {}
        self.refusals = Refusals(request, prepared.profile.name, prepared.ask.precision.name)
        self.misses: list[Miss] = []

    def on(self, gpu: Gpu, asked: tuple[str, str | None]) -> tuple[list[Option], Refused | None]:
        """
        The layouts of this card that carry the load, at most four: fewest cards, fewest without groups, surest, fastest.

        Where there is none, the nearest and why it is refused.
        """
        why_not = _why_not_card(gpu, self.prepared, self.request)
        if why_not is not None:
            return [], self.refusals.of(gpu.name, Layout(), CARD, why_not)
        drafts: list[Draft] = []
        refused: list[Refused] = []
        misses: list[Miss] = []
        for layout in self._layouts(gpu):
            replica = self._replica(gpu, layout)
            if isinstance(replica, Refused):
                refused.append(replica)
                continue
            more, no = self._drafts(replica)
            drafts += more
            if no is not None:
                refused.append(no)
                miss = miss_of(no, replica)
                misses += [miss] if miss else []
        # Of layouts with more cards than are allowed only one that carries the load is worth naming.
        refused = [
            each for each in refused if each.why in (CARDS, HEADROOM) or each.gpus <= self.request.max_gpus
        ]
        options: list[Option] = []
        for draft in _picked(drafts):
            made = option_of(draft, self.request, asked, self.refusals)
            (options if isinstance(made, Option) else refused).append(made)  # type: ignore[arg-type]  # each to its own
        if not drafts and misses:
            self.misses.append(min(misses, key=lambda miss: miss.excess))
        return options, None if options or not refused else min(refused, key=lambda each: each.distance)

    def _layouts(self, gpu: Gpu) -> Iterator[Layout]:
        """
        Tensor parallel within a node, stages beside it where cards have no fast link, and whole nodes as stages.

        A node's cards and then nodes by pipeline is what vLLM's own manual says for a model that one node cannot hold:
        https://docs.vllm.ai/en/stable/serving/parallelism_scaling/ . SGLang's says tensor parallel over all nodes:
        https://docs.sglang.io/references/multi_node_deployment/multi_node.html
        """
        engine, node = self.prepared.engine, self.request.node_of(gpu)
        if _is_routed(self.prepared.ask):
            yield from self._grouped(node, wide=_joins_a_node(gpu, node))
        expert_parallel = bool(self.request.options.get("ep"))
        widest = max(size for size in _POWERS if size <= node)
        if not engine.splits_tensors:
            yield from (Layout(pp=count) for count in _POWERS if count <= node)
            return
        for tp in _POWERS:
            if tp > node or why_not_tp(self.prepared.ask.architecture, tp):
                continue
            yield Layout(tp=tp, expert_parallel=expert_parallel)
            if _STAGES * tp <= node and not gpu.link_bytes_per_s:
                yield Layout(tp=tp, pp=_STAGES, expert_parallel=expert_parallel)
            if tp == widest > 1 and engine.name in _SPANS_NODES:
                yield from (Layout(tp=tp, pp=pp, expert_parallel=expert_parallel) for pp in _ACROSS_NODES)
        if engine.name == "sglang" and _joins_a_node(gpu, node):
            yield Layout(tp=_WIDE * node, expert_parallel=expert_parallel)

    def _grouped(self, node: int, *, wide: bool) -> Iterator[Layout]:
        """
        Groups that serve requests of their own and share the experts: each byte of the cache lies on fewer cards.

        vLLM: data-parallel replicas with experts dealt out over all of them, on a node or two. SGLang and TensorRT-LLM:
        data parallel attention inside the tensor parallel ranks. `wide` adds those over two nodes, whose network every
        layer waits for: of servers that are built for it. Source:
        https://docs.vllm.ai/en/stable/serving/expert_parallel_deployment/,
        https://docs.sglang.io/advanced_features/dp_for_multi_moe_in_sglang.html
        """
        engine = self.prepared.engine
        sizes = [size for size in _POWERS if size <= node]
        if engine.name == "vllm":
            for tp in sizes:
                if why_not_tp(self.prepared.ask.architecture, tp) is None:
                    counts = [count for count in _GROUPS if tp * count <= node]
                    counts += [_WIDE * node // tp] if wide else []
                    yield from (Layout(tp=tp, dp=count, expert_parallel=True) for count in counts)
        elif engine.attention_groups is not None:
            if engine.name == "sglang" and wide:
                sizes.append(_WIDE * node)
            yield from (
                Layout(tp=tp, attention_dp=groups, expert_parallel=bool(self.request.options.get("ep")))
                for tp in sizes
                for groups in (*_GROUPS, _WIDE * node)
                if groups <= tp and not tp % groups and (engine.attention_groups == "dp" or groups == tp)
            )

    def _replica(self, gpu: Gpu, layout: Layout) -> Replica | Refused:
        engine = self.prepared.engine
        ask = replace(self.prepared.ask, layout=layout, device=device_of(gpu))
        known = self._known(ask)
        if isinstance(known, PlannerError):
            return self.refusals.of(gpu.name, layout, LAYOUT, str(known))
        capacity = engine.capacity(ask, known.memory)
        if capacity.max_concurrency < 1:
            usable = engine.usable_bytes(ask)
            missing = -headroom(known.memory.parts, usable, gpu.total_bytes)
            return self.refusals.short(gpu.name, layout, missing, usable)
        replica = None
        if engine.speed_of is not None:
            served = Served(engine=engine.speed_of, ask=ask, gpu=gpu, memory=known.memory, capacity=capacity,
                            servers=self.request.servers)  # fmt: skip
            replica = Replica.of(served, known.work or served.work(), self.request, known.held_share)
        return replica or self.refusals.of(gpu.name, layout, SPEED, "how fast it is, is not known")

    def _known(self, ask: Ask) -> _Known | PlannerError:
        engine = self.prepared.engine
        key = ask.layout, engine.alike(ask)
        if key not in self.known:
            try:
                self.known[key] = self._asked(ask)
            except PlannerError as error:
                # A layout that this model cannot have is no option.
                self.known[key] = error
        return self.known[key]

    def _asked(self, ask: Ask) -> _Known:
        engine = self.prepared.engine
        memory = engine.memory(ask)
        held = self._held_share(ask, memory)
        if engine.speed_of is None or ask.device is None or "host_weights_bytes" in memory.settings:
            return _Known(memory, None, held)
        capacity = engine.capacity(ask, memory)
        gpu = find_gpu("custom:1GiB").gpu
        return _Known(memory, Served(engine=engine.speed_of, ask=ask, gpu=gpu, memory=memory,
                                     capacity=capacity).work(), held)  # fmt: skip

    def _held_share(self, ask: Ask, memory: Memory) -> float:
        """What a request holds of the cache on average, of what one of full context takes: as the engine counts it."""
        held = self.request.held
        if (
            self.prepared.engine.name not in PAGED
            or held >= ask.workload.context
            or not memory.kv.bytes_per_request
        ):
            return 1.0
        shorter = replace(ask.workload, context=held, prompt_tokens=min(held, ask.workload.prompt_tokens))
        found = self.prepared.engine.memory(replace(ask, workload=shorter)).kv.bytes_per_request
        return max(1e-6, found / memory.kv.bytes_per_request)

    def _drafts(self, replica: Replica) -> tuple[list[Draft], Refused | None]:
        load = float(self.request.users or self.request.rate or 0)
        edge = replica.edge(surely=False)
        if edge.in_flight < 1:
            return [], self.refusals.slow(replica, edge)
        carried = replica.carries(edge.in_flight)
        wanted = load * (1 + self.request.spare.share)
        count = max(1, ceil(wanted / carried - 1e-9))
        gpus = replica.served.ask.layout.gpus
        if count * gpus > self.request.max_gpus:
            return [], self.refusals.too_many(replica, carried, count * gpus)
        sure = replica.edge(surely=True).in_flight if replica.is_measured else 0
        surely = ceil(wanted / replica.carries(sure) - 1e-9) if sure else None
        drafts = [self._draft(replica, edge, count, sure=surely is not None and surely <= count)]
        if surely is not None and count < surely and surely * gpus <= self.request.max_gpus:
            drafts.append(self._draft(replica, edge, surely, sure=True))
        return drafts, None

    def _draft(self, replica: Replica, edge: Edge, count: int, *, sure: bool) -> Draft:
        return Draft(
            profile=self.prepared.profile,
            replica=replica,
            edge=edge,
            carried=replica.carries(edge.in_flight),
            count=count,
            sure=sure,
        )


def size(request: SizeRequest) -> Sizing:
    """
    Rank what carries the load within its limits: cards × counts × layouts × formats.

    Raises a PlannerError where a card is unknown, or no model goes with any of the formats.
    """
    cards = _cards(request)
    options: list[Option] = []
    misses: list[Miss] = []
    nearest: list[Refused] = []
    refused: list[tuple[str, PlannerError]] = []
    asked = 0
    titles: set[str] = set()
    names: dict[str, None] = {}
    for model in request.models:
        for quant in request.quants:
            asked += 1
            plan_request = request.plan_request(model, quant)
            try:
                prepared = prepare(plan_request)
            except PlannerError as error:
                refused.append((f"{model}{f' in {quant}' if quant else ''}", error))
                continue
            search = _Search(request, prepared)
            for gpu in cards:
                found, why_not = search.on(gpu, (model, quant))
                options += found
                nearest += [why_not] if why_not else []
            misses += search.misses
            titles.add(_title(prepared))
            names[prepared.profile.name] = None
    if len(refused) == asked:
        raise refused[0][1]
    return Sizing(
        request=request,
        engine=", ".join(sorted(titles)),
        models=tuple(names),
        options=ranked(options),
        misses=tuple(sorted(misses, key=lambda miss: miss.excess)),
        nearest=tuple(sorted(nearest, key=lambda each: each.distance)),
        cards=len(cards),
        refused=tuple(f"{name}: {error}" for name, error in refused),
    )


def _why_not_card(gpu: Gpu, prepared: Prepared, request: SizeRequest) -> str | None:
    """Why the engine does not run on a card; None where it does."""
    engine = prepared.engine
    if gpu.vendor not in engine.vendors:
        return f"{engine.title} does not run on cards of {gpu.vendor}"
    asked = str(request.options.get("dtype") or "auto")
    if engine.gguf != "own" and asked in ("auto", "bfloat16") and gpu.supports("bfloat16") is False:
        return "it does not compute in bfloat16: try --dtype float16"
    return None


def _joins_a_node(gpu: Gpu, node: int) -> bool:
    """Whether a fast link joins all cards of a server: such servers have a fast network too, others seldom."""
    return node > 1 and link_inside(gpu, node).kind == "nvlink"


def _is_routed(ask: Ask) -> bool:
    return any(
        layer.feed_forward.active_share[0] != layer.feed_forward.active_share[1]
        for layer, _ in ask.architecture.groups
    )


def _title(prepared: Prepared) -> str:
    version = prepared.ask.options.version
    return f"{prepared.engine.title} {version}" if version else prepared.engine.title


def _cards(request: SizeRequest) -> tuple[Gpu, ...]:
    """
    Those that were named, else all that somebody rents out or sells and that stand in a server or a workstation.

    A file of prices in another currency leaves out none of them: those that it lacks have no price and stand last.
    """
    if request.gpus:
        named = [find_gpu(name) for name in request.gpus]
        if any(choice.count != 1 for choice in named):
            raise RequestError("sizing counts the cards itself", hint="--gpu 'RTX 4090', without a number")
        return tuple({choice.gpu.name: choice.gpu for choice in named}.values())
    return tuple(
        gpu
        for gpu in all_gpus()
        if (gpu.hourly_price is not None or gpu.purchase_price is not None or gpu.name in request.prices.own)
        and not gpu.unified_memory
        and "Laptop" not in gpu.name
    )


def _picked(drafts: list[Draft]) -> list[Draft]:
    """Of one card: the fewest of it, with and without groups, the fewest that surely do, the fastest of up to twice as many."""
    if not drafts:
        return []
    smallest = min(drafts, key=lambda draft: (draft.gpus, -draft.carried * draft.count))
    kept = {id(smallest): smallest}
    plain = [draft for draft in drafts if draft.replica.groups == 1]
    if plain:
        fewest = min(plain, key=lambda draft: (draft.gpus, -draft.carried * draft.count))
        kept[id(fewest)] = fewest
    sure = [draft for draft in drafts if draft.sure]
    if sure:
        surest = min(sure, key=lambda draft: (draft.gpus, -draft.carried * draft.count))
        kept[id(surest)] = surest
    near = [draft for draft in drafts if draft.gpus <= _TOO_FAR * smallest.gpus]
    fastest = min(near, key=lambda draft: draft.tpot_s)
    kept[id(fastest)] = fastest
    return list(kept.values())
