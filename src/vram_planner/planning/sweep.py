"""Plans of a whole product of models, formats, cards, contexts and concurrencies: the arithmetic of cells by numpy."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib import import_module
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from vram_planner.engines.base import Ask, Workload
from vram_planner.engines.register import TABLES
from vram_planner.errors import NotInstalledError, PlannerError, RequestError
from vram_planner.hardware_profiles import GpuChoice, all_gpus, find_gpu
from vram_planner.planning.candidates import device_of
from vram_planner.planning.estimate import prepare
from vram_planner.planning.layouts import layout_of
from vram_planner.planning.performance import Served
from vram_planner.planning.plan import headroom, judge
from vram_planner.planning.request import PlanRequest
from vram_planner.planning.sweep_table import FIGURES, REFUSED, SPEEDS, VERDICTS, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from vram_planner.architecture.parallel import Layout
    from vram_planner.engines.base import Device, Memory
    from vram_planner.hardware_profiles import Gpu
    from vram_planner.planning.estimate import Prepared

_MOST_CELLS = 50_000_000
_ALL = "all"


class _Cards(NamedTuple):
    """Cards that an engine treats alike under one layout: their places on the axis, and what they differ by."""

    ask: Ask
    places: list[int]
    choices: list[GpuChoice]
    asks: list[Ask]


class _Fixed(NamedTuple):
    """Sums of a memory over the parts that are no cache."""

    best: int
    low: int
    high: int
    budgeted: int
    weights: int


class _Sweep:
    """The figures of all cells, filled in one model and format at a time."""

    def __init__(self, shape: tuple[int, ...], axes: _Axes, *, speed: bool) -> None:
        self.numpy = _numpy()
        kinds = {"max_concurrency": "float64", **dict.fromkeys(SPEEDS, "float64")}
        names = (*FIGURES, *SPEEDS) if speed else FIGURES
        self.figures = {name: self.numpy.zeros(shape, kinds.get(name, "int64")) for name in names}
        self.verdicts = self.numpy.full(shape, REFUSED, "int8")
        self.axes = axes
        self.speed = speed
        self.linear: dict[tuple[int, int, Layout], bool] = {}
        self.requests: dict[Layout, Any] = {}

    def fill(self, at: tuple[int, int], prepared: Prepared, cards: _Cards) -> str | None:
        """The cells of these cards; the reason where the engine refuses them."""
        try:
            name = TABLES.get(prepared.engine.name)
            if name is not None and not self.speed:
                table = import_module(name)
                key = (*at, cards.ask.layout)
                if key not in self.linear:
                    self.linear[key] = _is_linear(table, prepared, cards.ask, self.axes)
                if self.linear[key]:
                    self._by_blocks(at, prepared, cards, table)
                    return None
            self._one_by_one(at, prepared, cards)
        except PlannerError as error:
            return str(error)
        return None

    def _by_blocks(self, at: tuple[int, int], prepared: Prepared, cards: _Cards, table: Any) -> None:
        """Fixed parts by their key, caches by blocks, cards by broadcasting."""
        np, axes, engine = self.numpy, self.axes, prepared.engine
        smallest = axes.workload(min(axes.ctx), min(axes.concurrency))
        by_context = table.by_context(replace(cards.ask, workload=smallest))
        known: dict[Hashable, tuple[list[int], list[int]]] = {}

        def column(contexts: tuple[int, ...], concurrency: int, key: Hashable) -> tuple[list[int], list[int]]:
            """The sums of one key, and the blocks of a request of each context."""
            if key not in known:
                ask = replace(cards.ask, workload=axes.workload(contexts[0], concurrency))
                page, states, count = table.pages(ask)
                fixed = _fixed(engine.memory(ask), table.CACHE_PARTS)
                known[key] = [*fixed, page, states], [count(each) for each in contexts]
            return known[key]

        rows: list[list[list[int]]] = []
        blocks: list[tuple[int, ...]] = []
        for contexts in [(ctx,) for ctx in axes.ctx] if by_context else [axes.ctx]:
            keys = _keys(table, cards.ask, axes, contexts[0])
            found = [column(contexts, number, (keys[n], contexts if by_context else None))
                     for n, number in enumerate(axes.concurrency)]  # fmt: skip
            rows.append([fixed for fixed, _ in found])
            blocks += zip(*(counts for _, counts in found), strict=True)
        sums = dict(
            zip((*_Fixed._fields, "page", "states"), np.moveaxis(np.array(rows, "int64"), 2, 0), strict=True)
        )
        sums["blocks"] = np.array(blocks, "int64")
        sums["requests"] = self._requests(table, cards.ask)
        self._write((*at, cards.places), cards, prepared, sums)

    def _requests(self, table: Any, ask: Ask) -> Any:
        """Requests that one rank holds at each concurrency: the layout's answer."""
        axes = self.axes
        if ask.layout not in self.requests:
            asks = (replace(ask, workload=axes.workload(axes.ctx[0], number)) for number in axes.concurrency)
            self.requests[ask.layout] = self.numpy.array([[table.requests(each) for each in asks]], "int64")
        return self.requests[ask.layout]

    def _write(self, place: tuple[Any, ...], cards: _Cards, prepared: Prepared, sums: dict[str, Any]) -> None:
        """From sums over contexts and concurrencies to the figures of each card."""
        np, engine = self.numpy, prepared.engine
        cache = sums["requests"] * sums["blocks"] * sums["page"]
        usable, totals = (
            np.array(values, "int64")[:, None, None]
            for values in (
                [engine.usable_bytes(ask) for ask in cards.asks],
                [choice.gpu.total_bytes for choice in cards.choices],
            )
        )
        total = sums["best"] + cache
        room = np.minimum(usable - (sums["budgeted"] + cache), totals - total)
        pool = np.maximum(0, usable - sums["budgeted"])
        self.figures["total_bytes"][place] = total
        self.figures["weights_bytes"][place] = sums["weights"]
        self.figures["kv_cache_bytes"][place] = (
            sums["requests"] * (sums["blocks"] - sums["states"]) * sums["page"]
        )
        self.figures["headroom_bytes"][place] = room
        self.figures["max_concurrency"][place] = (pool // sums["page"]) / sums["blocks"]
        surely = room - (sums["high"] - sums["best"]) >= 0
        maybe = room + (sums["best"] - sums["low"]) >= 0
        self.verdicts[place] = np.where(surely, 0, np.where(maybe, 1, 2))

    def _one_by_one(self, at: tuple[int, int], prepared: Prepared, cards: _Cards) -> None:
        """Each cell as the plain plan has it; memory is asked once for cards that are treated alike."""
        engine, axes = prepared.engine, self.axes
        for (c, ctx), (n, concurrency) in product(enumerate(axes.ctx), enumerate(axes.concurrency)):
            first = replace(cards.ask, workload=axes.workload(ctx, concurrency))
            memory = engine.memory(first)
            for place, choice in zip(cards.places, cards.choices, strict=True):
                ask = replace(first, device=_device(choice.gpu))
                self._cell((*at, place, c, n), prepared, ask, choice, memory)

    def _cell(
        self, at: tuple[int, ...], prepared: Prepared, ask: Ask, choice: GpuChoice, memory: Memory
    ) -> None:
        engine = prepared.engine
        usable, total = engine.usable_bytes(ask), choice.gpu.total_bytes
        capacity = engine.capacity(ask, memory)
        self.figures["total_bytes"][at] = sum(part.n_bytes for part in memory.parts)
        self.figures["weights_bytes"][at] = memory.bytes_of("weights")
        self.figures["kv_cache_bytes"][at] = memory.bytes_of("kv_cache")
        self.figures["headroom_bytes"][at] = headroom(memory.parts, usable, total)
        self.figures["max_concurrency"][at] = capacity.max_concurrency
        self.verdicts[at] = VERDICTS.index(judge(memory.parts, usable, total))
        if self.speed and engine.speed_of is not None:
            served = Served(engine=engine.speed_of, ask=ask, gpu=choice.gpu, memory=memory, capacity=capacity)
            times = served.times()
            for name in SPEEDS:
                self.figures[name][at] = float("nan") if times is None else getattr(times, name)


class _Axes(NamedTuple):
    """Contexts and concurrencies, and the prompt of each."""

    ctx: tuple[int, ...]
    concurrency: tuple[int, ...]
    prompts: dict[int, int]

    def workload(self, ctx: int, concurrency: int) -> Workload:
        """One cell's."""
        return Workload(context=ctx, concurrency=concurrency, prompt_tokens=self.prompts[ctx])


def sweep(
    models: Sequence[str],
    gpus: Sequence[str],
    workloads: tuple[Sequence[int | str], Sequence[int]],
    *,
    quants: Sequence[str | None] = (None,),
    speed: bool = False,
    tell: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Table:
    """
    Every combination of models, formats, cards ('2x RTX 4090', 'all'), contexts and concurrencies.

    Each cell equals the plan of the same options without calibration. `workloads` are contexts and concurrencies,
    `tell` is called with what is done and how much there is. `speed` adds times, a cell at a time. Raises
    NotInstalledError without numpy, RequestError for options that no cell could have.
    """
    _numpy()
    contexts, concurrencies = workloads
    choices = _choices(gpus)
    empty = [name for name, given in (("models", models), ("gpus", choices), ("quants", quants),
                                      ("ctx", contexts), ("concurrency", concurrencies)) if not given]  # fmt: skip
    if empty:
        raise RequestError(f"a sweep over no {empty[0]}", hint="give at least one of each")
    shape = len(models), len(quants), len(choices), len(contexts), len(concurrencies)
    cells = shape[0] * shape[1] * shape[2] * shape[3] * shape[4]
    if cells > _MOST_CELLS:
        raise RequestError(f"{cells:,} cells", hint=f"at most {_MOST_CELLS:,} in one sweep")
    axes = _axes(models[0], contexts, concurrencies, options)
    work = _Sweep(shape, axes, speed=speed)
    table = Table(
        models=tuple(models),
        quants=tuple(quant or "stored" for quant in quants),
        gpus=tuple((choice.gpu.name, choice.count) for choice in choices),
        ctx=axes.ctx,
        concurrency=axes.concurrency,
        figures=work.figures,
        verdicts=work.verdicts,
        layouts={},
        formats={},
        names={},
        reasons={},
    )
    steps = len(models) * len(quants)
    for step, ((m, model), (q, quant)) in enumerate(product(enumerate(models), enumerate(quants))):
        request = PlanRequest.of(
            model=model, quant=quant, ctx=axes.ctx[0], concurrency=axes.concurrency[0], **options
        )
        _fill(work, table, (m, q), request, choices)
        if tell is not None:
            tell(step + 1, steps)
    return table


def _axes(
    model: str, contexts: Sequence[int | str], concurrencies: Sequence[int], options: dict[str, Any]
) -> _Axes:
    """Contexts and concurrencies, read and checked as those of a plan."""
    asked = [
        PlanRequest.of(model=model, ctx=ctx, concurrency=number, **options)
        for ctx, number in [*((ctx, concurrencies[0]) for ctx in contexts),
                            *((contexts[0], number) for number in concurrencies)]
    ]  # fmt: skip
    return _Axes(
        tuple(request.ctx for request in asked[: len(contexts)]),
        tuple(concurrencies),
        {request.ctx: request.prompt for request in asked[: len(contexts)]},
    )


def _fill(
    work: _Sweep, table: Table, at: tuple[int, int], request: PlanRequest, choices: list[GpuChoice]
) -> None:
    """One model in one format over all cards."""
    try:
        prepared = prepare(request)
    except PlannerError as error:
        table.reasons.update({(*at, g): str(error) for g in range(len(choices))})
        return
    table.formats[at], table.names[at[0]] = prepared.ask.precision.name, prepared.profile.name
    alike: dict[tuple[Layout, Hashable], _Cards] = {}
    layouts: dict[int, Layout | str] = {}
    for g, choice in enumerate(choices):
        if choice.count not in layouts:
            try:
                layouts[choice.count] = layout_of(request, prepared.profile, prepared.engine, choice)
            except PlannerError as error:
                layouts[choice.count] = str(error)
        layout = layouts[choice.count]
        if isinstance(layout, str):
            table.reasons[(*at, g)] = layout
            continue
        table.layouts[(*at, g)] = layout.tp, layout.pp
        ask = _on(prepared.ask, layout, _device(choice.gpu))
        cards = alike.setdefault((layout, prepared.engine.alike(ask)), _Cards(ask, [], [], []))
        cards.places.append(g)
        cards.choices.append(choice)
        cards.asks.append(ask)
    for cards in alike.values():
        reason = work.fill(at, prepared, cards)
        if reason is not None:
            table.reasons.update({(*at, g): reason for g in cards.places})


def _on(ask: Ask, layout: Layout, device: Device) -> Ask:
    """As `replace`, which takes ten times as long: this is done for every card of every model."""
    return Ask(
        architecture=ask.architecture,
        precision=ask.precision,
        workload=ask.workload,
        layout=layout,
        options=ask.options,
        device=device,
        draft=ask.draft,
        projector=ask.projector,
    )


@cache
def _device(gpu: Gpu) -> Device:
    return device_of(gpu)


def _choices(gpus: Sequence[str]) -> list[GpuChoice]:
    found: list[GpuChoice] = []
    for name in gpus:
        found += [GpuChoice(gpu, 1, gpu.name) for gpu in all_gpus()] if name == _ALL else [find_gpu(name)]
    return found


def _fixed(memory: Memory, cache: tuple[str, ...]) -> _Fixed:
    parts = [part for part in memory.parts if part.name not in cache]
    return _Fixed(
        sum(part.n_bytes for part in parts),
        sum(part.low for part in parts),
        sum(part.high for part in parts),
        sum(part.budgeted_bytes for part in parts),
        memory.bytes_of("weights"),
    )


def _keys(table: Any, ask: Ask, axes: _Axes, ctx: int) -> list[Hashable]:
    """
    The table's key of the fixed parts at each concurrency.

    Its numbers grow with the concurrency or stay, so that between two concurrencies with one key all have it.
    """
    order = sorted(range(len(axes.concurrency)), key=axes.concurrency.__getitem__)
    keys: list[Hashable] = [None] * len(order)

    def asked(place: int) -> Hashable:
        workload = axes.workload(ctx, axes.concurrency[order[place]])
        key: Hashable = table.fixed_key(replace(ask, workload=workload))
        return key

    def fill(low: int, high: int, first: Hashable, last: Hashable) -> None:
        if first == last or high - low <= 1:
            keys[order[low]], keys[order[high]] = first, last
            for place in range(low + 1, high):
                keys[order[place]] = first
            return
        middle = (low + high) // 2
        between = asked(middle)
        fill(low, middle, first, between)
        fill(middle, high, between, last)

    fill(0, len(order) - 1, asked(0), asked(len(order) - 1))
    return keys


def _is_linear(table: Any, prepared: Prepared, ask: Ask, axes: _Axes) -> bool:
    """Whether the largest cell's memory is what blocks and fixed parts of the smallest say: else cell by cell."""
    first = replace(ask, workload=axes.workload(min(axes.ctx), min(axes.concurrency)))
    last = replace(ask, workload=axes.workload(max(axes.ctx), max(axes.concurrency)))
    least, memory = prepared.engine.memory(first), prepared.engine.memory(last)
    page, states, count = table.pages(last)
    blocks, requests = count(last.workload.context), table.requests(last)
    cache = [part for part in memory.parts if part.name in table.CACHE_PARTS]
    kept = sum(part.n_bytes for part in cache)
    # With pipeline stages another one may be the fullest of the smallest cell, with other layers and pages.
    begun = sum(part.n_bytes for part in least.parts if part.name in table.CACHE_PARTS)
    return (
        table.by_blocks(last)
        and kept == requests * blocks * page
        and begun == table.requests(first) * count(first.workload.context) * page
        and all(part.low == part.high == part.n_bytes == part.budgeted_bytes for part in cache)
        and memory.bytes_of("kv_cache") == requests * (blocks - states) * page
        and (
            table.by_context(first)  # then the fixed parts are asked for at every context
            or table.fixed_key(first) != table.fixed_key(last)
            or _fixed(least, table.CACHE_PARTS) == _fixed(memory, table.CACHE_PARTS)
        )
    )


def _numpy() -> Any:
    try:
        return import_module("numpy")
    except ModuleNotFoundError as error:
        raise NotInstalledError(
            "a sweep needs numpy, which is not installed", hint="pip install 'vram-planner[sweep]'"
        ) from error
