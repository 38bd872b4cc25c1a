"""Models and formats side by side on the same card, each against the first."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vram_planner.errors import RequestError
from vram_planner.hardware_profiles import find_gpu
from vram_planner.planning.estimate import AS_PUBLISHED, estimate
from vram_planner.planning.performance import Assumptions, Band
from vram_planner.planning.prices import HOURS_A_MONTH, Prices
from vram_planner.planning.request import PlanRequest

if TYPE_CHECKING:
    from vram_planner.planning.performance import Performance
    from vram_planner.planning.plan import MemoryPlan

_MOST = 64
_SECONDS_AN_HOUR = 3600
SCHEMA_VERSION = 1
FIGURES = (
    "parameters",
    "weights_bytes",
    "kv_bytes_per_token",
    "kv_bytes_per_request",
    "total_bytes",
    "headroom_bytes",
    "at_once",
    "max_context",
    "ttft_s",
    "tpot_s",
    "per_user_tokens_per_s",
    "full_at_once",
    "full_per_user_tokens_per_s",
    "full_tokens_per_s",
    "cost_per_month",
    "cost_per_month_each",
    "cost_per_million_tokens",
)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Side:
    """
    One model in one format on the card.

    Memory and the first speeds are at the asked concurrency; `full_…` at as many requests of full context as there
    is room and places for. `cost_per_month_each` is the month's rent by those, `cost_per_million_tokens` of the
    tokens generated then. None where something is not known or the model does not fit.
    """

    model: str
    quant: str
    fits: bool
    verdict: str
    parameters: int
    weights_bytes: int
    kv_bytes_per_token: int
    kv_bytes_per_request: int
    total_bytes: int
    headroom_bytes: int
    at_once: float
    max_context: int
    ttft_s: Band | None
    tpot_s: Band | None
    per_user_tokens_per_s: Band | None
    full_at_once: int
    full_per_user_tokens_per_s: Band | None
    full_tokens_per_s: Band | None
    cost_per_month: float | None
    cost_per_month_each: float | None
    cost_per_million_tokens: Band | None
    warnings: tuple[str, ...]

    def best(self, figure: str) -> float | None:
        """The best estimate of a figure."""
        value = getattr(self, figure)
        return value.best if isinstance(value, Band) else value


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Comparison:
    """The sides in the order that they were asked for; differences are against the first."""

    gpu: str
    gpus: int
    engine: str
    ctx: int
    prompt_tokens: int
    concurrency: int
    currency: str
    cost_source: str | None
    sides: tuple[Side, ...]

    def change(self, side: Side, figure: str) -> float | None:
        """(ours − first) / first of the best estimates; None where one is missing or the first is 0."""
        mine, first = side.best(figure), self.sides[0].best(figure)
        return None if mine is None or not first else mine / first - 1

    @property
    def fits(self) -> bool:
        """Whether all of them fit."""
        return all(side.fits for side in self.sides)

    def to_dict(self) -> dict[str, Any]:
        """One JSON document, with the changes beside each side but the first."""
        known = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "sides"}
        sides = [asdict(side) for side in self.sides]
        for side, document in zip(self.sides[1:], sides[1:], strict=True):
            document["change"] = {figure: self.change(side, figure) for figure in FIGURES}
        return {"schema_version": SCHEMA_VERSION, **known, "sides": sides}

    def to_rows(self) -> list[dict[str, Any]]:
        """One row of plain columns a side: best estimates, with _low and _high where there is a band."""
        rows = []
        for side in self.sides:
            row: dict[str, Any] = {
                "model": side.model,
                "quant": side.quant,
                "gpu": self.gpu,
                "gpus": self.gpus,
            }
            row.update(fits=side.fits, verdict=side.verdict)
            for figure in FIGURES:
                value = getattr(side, figure)
                row[figure] = side.best(figure)
                if figure.endswith(("_s", "_tokens")) and figure != "kv_bytes_per_token":
                    row[f"{figure}_low"] = value.low if value else None
                    row[f"{figure}_high"] = value.high if value else None
                row[f"{figure}_change"] = self.change(side, figure)
            rows.append(row)
        return rows


def compare(
    models: tuple[str, ...], quants: tuple[str | None, ...], prices: Prices, *, gpu: str, **options: Any
) -> Comparison:
    """
    Each model in each format on `gpu` (as '2x RTX 4090'); `options` are those of a plan.

    Raises a PlannerError for what cannot be planned, of the first that cannot.
    """
    if len(models) * len(quants) > _MOST or not models or not quants:
        raise RequestError("nothing or too much to compare", hint=f"1 to {_MOST} models times formats")
    choice = find_gpu(gpu)
    rent = prices.rent(choice.gpu)
    plans: list[tuple[MemoryPlan, Side]] = []
    for model in models:
        for quant in quants:
            plan = estimate(PlanRequest.of(model=model, quant=quant, gpu=gpu, **options))
            count = plan.gpu.count if plan.gpu else choice.count
            month = None if rent is None else rent[0] * count * HOURS_A_MONTH
            plans.append((plan, _side(plan, month)))
    first = plans[0][0]
    return Comparison(
        gpu=choice.gpu.name,
        gpus=first.gpu.count if first.gpu else choice.count,
        engine=first.engine_title,
        ctx=first.request["ctx"],
        prompt_tokens=first.request["prompt_tokens"],
        concurrency=first.request["concurrency"],
        currency=prices.currency,
        cost_source=None if rent is None else rent[1],
        sides=tuple(side for _, side in plans),
    )


def _side(plan: MemoryPlan, month: float | None) -> Side:
    at_once = plan.capacity.max_concurrency if plan.capacity else 0.0
    places = plan.request.get("max_num_seqs")
    full = min(int(at_once), places) if isinstance(places, int) else int(at_once)
    if plan.served is not None:
        full *= plan.served.groups  # capacity and places are those of one
    here, most = plan.performance if plan.fits else None, _at(plan, full)
    served = most.output_tokens_per_s if most else None
    return Side(
        model=plan.model.name,
        quant=plan.model.precision.name,
        fits=bool(plan.fits),
        verdict=plan.verdict or "",
        parameters=plan.model.architecture.parameters,
        weights_bytes=plan.model.architecture.weights_bytes(plan.model.precision),
        kv_bytes_per_token=plan.kv.bytes_per_token,
        kv_bytes_per_request=plan.kv.bytes_per_request,
        total_bytes=plan.total_bytes,
        headroom_bytes=plan.headroom_bytes or 0,
        at_once=at_once,
        max_context=plan.capacity.max_context if plan.capacity else 0,
        ttft_s=here.ttft_s if here else None,
        tpot_s=here.tpot_s if here else None,
        per_user_tokens_per_s=here.per_user_tokens_per_s if here else None,
        full_at_once=full,
        full_per_user_tokens_per_s=most.per_user_tokens_per_s if most else None,
        full_tokens_per_s=served,
        cost_per_month=month,
        cost_per_month_each=month / full if month and full else None,
        cost_per_million_tokens=_per_million(month, served),
        # A comparison shows no command.
        warnings=tuple(text for text in plan.warnings if not text.startswith(AS_PUBLISHED)),
    )


def _at(plan: MemoryPlan, concurrency: int) -> Performance | None:
    if plan.served is None or concurrency < 1:
        return None
    return plan.served.performance(Assumptions(concurrency=concurrency))


def _per_million(month: float | None, served: Band | None) -> Band | None:
    if month is None or served is None:
        return None
    money = month / HOURS_A_MONTH * 1e6 / _SECONDS_AN_HOUR
    return Band(money / served.high, money / served.best, money / served.low)
