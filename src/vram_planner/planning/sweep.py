"""Plans of a whole product of models, formats, cards, contexts and concurrencies: the arithmetic of cells by numpy."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib import import_module
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from vram_planner.engines.base import Ask
from vram_planner.engines.register import TABLES
from vram_planner.engines.tables import Axes, Sums, sums_of, with_workload
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
    from vram_planner.engines.base import Device, Engine, Memory
    from vram_planner.engines.tables import Row
    from vram_planner.engines.tables import Table as EngineTable
    from vram_planner.hardware_profiles import Gpu
    from vram_planner.planning.estimate import Prepared
    from vram_planner.planning.performance import AtOnce

_MOST_CELLS = 50_000_000
_ALL = "all"


class _Cards(NamedTuple):
    """Cards that an engine treats alike under one layout: their places on the axis, and what they differ by."""

    ask: Ask
    places: list[int]
    choices: list[GpuChoice]
    asks: list[Ask]


class _Sweep:
    """The figures of all cells, filled in one model and format at a time."""

    def __init__(self, shape: tuple[int, ...], axes: Axes, *, speed: bool) -> None:
        self.numpy = _numpy()
        kinds = {"max_concurrency": "float64", **dict.fromkeys(SPEEDS, "float64")}
        names = (*FIGURES, *SPEEDS) if speed else FIGURES
        self.figures = {name: self.numpy.zeros(shape, kinds.get(name, "int64")) for name in names}
        self.verdicts = self.numpy.full(shape, REFUSED, "int8")
        self.axes = axes
        self.speed = speed
        self.proven: dict[tuple[int, int, Layout], bool] = {}

    def fill(
        self, at: tuple[int, int], prepared: Prepared, cards: _Cards, table: EngineTable | None
    ) -> str | None:
        """The cells of these cards; the reason where the engine refuses them."""
        try:
            if table is None or not self._by_rows(at, prepared, cards, table):
                self._one_by_one(at, prepared, cards)
        except PlannerError as error:
            return str(error)
        return None

    def _by_rows(self, at: tuple[int, int], prepared: Prepared, cards: _Cards, table: EngineTable) -> bool:
        """The cells as the engine's table has them, cards by broadcasting; False where it does not hold."""
        key = (*at, cards.ask.layout)
        if not self.proven.get(key, True):
            return False
        rows = table.rows(cards.ask, self.axes)
        if rows is not None and key not in self.proven:
            self.proven[key] = _holds(rows, prepared, cards.ask, self.axes)
        if rows is None or not self.proven[key]:
            return False
        held = self._write((*at, cards.places), cards, prepared, rows)
        if self.speed and prepared.engine.speed_of is not None:
            self._speeds(at, prepared, cards, (rows, held))
        return True

    def _write(self, place: tuple[Any, ...], cards: _Cards, prepared: Prepared, rows: Sequence[Row]) -> Any:
        """From sums over contexts and concurrencies to the figures of each card; the requests that each holds at once."""
        np, engine, shape = self.numpy, prepared.engine, (len(self.axes.ctx), len(self.axes.concurrency))
        sums = np.array([row.sums for row in rows], "int64").T.reshape(len(Sums._fields), *shape)
        best, low, high, budgeted, weights, kv_cache = sums
        spent = [(engine.usable_bytes(ask), choice.gpu.total_bytes)
                 for ask, choice in zip(cards.asks, cards.choices, strict=True)]  # fmt: skip
        usable, totals = np.array(spent, "int64").T[:, :, None, None]
        room = np.minimum(usable - budgeted, totals - best)
        known: dict[int, list[float]] = {}
        sizes = list(dict.fromkeys(spent))  # many cards are of one size
        for row in rows:
            if id(row.held) not in known:
                at_once = {size: row.held(*size) for size in sizes}
                known[id(row.held)] = [at_once[size] for size in spent]
        held = np.array([known[id(row.held)] for row in rows], "float64").T
        self.figures["total_bytes"][place] = best
        self.figures["weights_bytes"][place] = weights
        self.figures["kv_cache_bytes"][place] = kv_cache
        self.figures["headroom_bytes"][place] = room
        self.figures["max_concurrency"][place] = held.reshape(-1, *shape)
        surely, maybe = room - (high - best) >= 0, room + (best - low) >= 0
        self.verdicts[place] = np.where(surely, 0, np.where(maybe, 1, 2))
        return held

    def _speeds(
        self, at: tuple[int, int], prepared: Prepared, cards: _Cards, found: tuple[Sequence[Row], Any]
    ) -> None:
        """Times of the cells that hold a request; a memory is asked for once for all cards."""
        engine, axes, (rows, held) = prepared.engine, self.axes, found
        cells = [axes.workload(ctx, number) for ctx in axes.ctx for number in axes.concurrency]
        memories: dict[int, Memory] = {}
        shape = len(axes.ctx), len(axes.concurrency)
        for place, choice, ask, rooms in zip(
            cards.places, cards.choices, cards.asks, held.tolist(), strict=True
        ):
            times = self.numpy.full((len(SPEEDS), len(cells)), float("nan"))
            for index, (work, room) in enumerate(zip(cells, rooms, strict=True)):
                if room < 1:
                    continue
                if index not in memories:
                    memory = rows[index].memory
                    memories[index] = memory() if memory else engine.memory(with_workload(cards.ask, work))
                times[:, index] = _times(
                    engine, with_workload(ask, work), choice, memories[index], _AtOnce(room)
                )
            for name, values in zip(SPEEDS, times, strict=True):
                self.figures[name][(*at, place)] = values.reshape(shape)

    def _one_by_one(self, at: tuple[int, int], prepared: Prepared, cards: _Cards) -> None:
        """Each cell as the plain plan has it; memory is asked once for cards that are treated alike."""
        engine, axes = prepared.engine, self.axes
        for (c, ctx), (n, concurrency) in product(enumerate(axes.ctx), enumerate(axes.concurrency)):
            first = with_workload(cards.ask, axes.workload(ctx, concurrency))
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
            for name, value in zip(SPEEDS, _times(engine, ask, choice, memory, capacity), strict=True):
                self.figures[name][at] = value


class _AtOnce(NamedTuple):
    max_concurrency: float


def _times(
    engine: Engine, ask: Ask, choice: GpuChoice, memory: Memory, capacity: AtOnce
) -> tuple[float, ...]:
    """The figures of SPEEDS, not numbers where no speed is known."""
    name = engine.speed_of or engine.name
    times = Served(engine=name, ask=ask, gpu=choice.gpu, memory=memory, capacity=capacity).times()
    if times is None:
        return (float("nan"),) * len(SPEEDS)
    return tuple([getattr(times, figure) for figure in SPEEDS])


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
    `tell` is called with what is done and how much there is. `speed` adds times, which takes longer. Raises
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
) -> Axes:
    """Contexts and concurrencies, read and checked as those of a plan."""
    asked = [
        PlanRequest.of(model=model, ctx=ctx, concurrency=number, **options)
        for ctx, number in [*((ctx, concurrencies[0]) for ctx in contexts),
                            *((contexts[0], number) for number in concurrencies)]
    ]  # fmt: skip
    return Axes(
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
    rules = _table(prepared.engine)
    key_of = (rules or prepared.engine).alike
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
        cards = alike.setdefault((layout, key_of(ask)), _Cards(ask, [], [], []))
        cards.places.append(g)
        cards.choices.append(choice)
        cards.asks.append(ask)
    for cards in alike.values():
        reason = work.fill(at, prepared, cards, rules)
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


def _table(engine: Engine) -> EngineTable | None:
    """The engine's table, loaded with its first use."""
    name = TABLES.get(engine.name)
    return None if name is None else cast("EngineTable", import_module(name))


def _holds(rows: Sequence[Row], prepared: Prepared, ask: Ask, axes: Axes) -> bool:
    """Whether the rows of the smallest and largest workloads are what the engine itself says: else cell by cell."""
    engine, total = prepared.engine, ask.device.total_bytes if ask.device else 0
    for c, n in product(*({values.index(min(values)), values.index(max(values))} for values in axes[:2])):
        row = rows[c * len(axes.concurrency) + n]
        cell = with_workload(ask, axes.workload(axes.ctx[c], axes.concurrency[n]))
        memory = engine.memory(cell)
        held = row.held(engine.usable_bytes(cell), total)
        if row.sums != sums_of(memory.parts) or held != engine.capacity(cell, memory).max_concurrency:
            return False
        if row.memory is not None and _pace(row.memory()) != _pace(memory):
            return False
    return True


def _pace(memory: Memory) -> tuple[dict[str, object], int, int]:
    """What speed reads of a memory."""
    return dict(memory.settings), memory.kv.bytes_per_token, memory.kv.bytes_per_request


def _numpy() -> Any:
    try:
        return import_module("numpy")
    except ModuleNotFoundError as error:
        raise NotInstalledError(
            "a sweep needs numpy, which is not installed", hint="pip install 'vram-planner[sweep]'"
        ) from error
