"""The answer of `size`: ranked options, which of them no other beats, and why cards fell out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vram_planner.planning.sizing_option import Option
    from vram_planner.planning.sizing_refused import Miss, Refused
    from vram_planner.planning.sizing_request import SizeRequest

SCHEMA_VERSION = 1
_HITS = "prefix cache hits (--prefix-hit)"
_GUESSES = "speculative decoding (--speculative, --acceptance)"
_SHARED = "room that requests with one beginning share"
NOT_MODELLED = (
    "bursts: what is in flight is a mean, arrivals bunch",
    "sending activations between pipeline stages of one node",
    "how evenly tokens choose experts that groups share",
    "servers, network, storage and people in the costs",
)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Sizing:
    """
    Options from cheap to dear, those without a price after them from few cards to many.

    `misses` are cards that hold the model and miss a limit with a single request, `nearest` all cards without an option,
    each in its nearest layout with the reason. `refused` names the models and formats that the engine does not serve.
    """

    request: SizeRequest
    engine: str
    models: tuple[str, ...]
    options: tuple[Option, ...]
    misses: tuple[Miss, ...]
    nearest: tuple[Refused, ...]
    cards: int
    refused: tuple[str, ...]

    @property
    def met(self) -> bool:
        """Whether an option carries the load within its limits, by the best estimate."""
        return bool(self.options)

    @property
    def best(self) -> Option | None:
        """The cheapest option that carries it at the high end of the bands too, else the cheapest."""
        sure = (option for option in self.options if option.surely)
        return next(sure, self.options[0] if self.options else None)

    @property
    def not_modelled(self) -> tuple[str, ...]:
        """What is left out, by what was asked."""
        asked = self.request.options
        hits = _SHARED if asked.get("prefix_hit") else _HITS
        return (*NOT_MODELLED, hits, *(() if asked.get("acceptance") is not None else (_GUESSES,)))

    def to_dict(self) -> dict[str, Any]:
        """One JSON document: seconds, bytes, watts, and money in the currency named."""
        request = self.request
        return {
            "schema_version": SCHEMA_VERSION,
            "request": {
                "models": list(request.models),
                "resolved": list(self.models),
                "quants": list(request.quants),
                "gpus": list(request.gpus),
                "users": request.users,
                "rate": request.rate,
                "think_s": request.think_s,
                "ctx": request.ctx,
                "prompt_tokens": request.prompt,
                "output_tokens": request.output,
                "ttft_s": request.ttft_s,
                "tpot_s": request.tpot_s,
                "engine": self.engine,
                "node_gpus": request.node_gpus,
                "max_gpus": request.max_gpus,
                "inter_node": request.inter_node,
                "headroom_share": request.spare.share,
                "headroom_bytes": request.spare.n_bytes,
                "room": request.room,
                "held_tokens": request.held,
                "utilisation": request.utilisation,
                "currency": request.prices.currency,
                "payment": "rent" if request.buying is None else "purchase",
                **request.options,
            },
            "met": self.met,
            "cards_looked_at": self.cards,
            "options": [option.to_dict() for option in self.options],
            "misses": [asdict(miss) for miss in self.misses],
            "nearest": [each.to_dict() for each in self.nearest],
            "refused": list(self.refused),
            "not_modelled": list(self.not_modelled),
        }

    def to_rows(self) -> list[dict[str, Any]]:
        """One row of plain columns an option, in their order."""
        return [{"rank": rank, **option.to_row()} for rank, option in enumerate(self.options, 1)]


def ranked(options: list[Option]) -> tuple[Option, ...]:
    """By cost, without a price by cards; those that none beats in cost, speed and head-room are marked."""
    priced = [option for option in options if option.cost_per_hour is not None]
    front = _front(priced or options)
    marked = [replace(option, pareto=id(option) in front) for option in options]
    return tuple(sorted(marked, key=_order))


def _order(option: Option) -> tuple[bool, float, int, bool, float]:
    """Of equal cost and cards plain layouts first: the speed of groups was not measured."""
    cost, grouped = option.cost_per_hour, option.dp * option.attention_dp > 1
    return (
        cost is None,
        cost if cost is not None else option.gpus,
        option.gpus,
        grouped,
        -option.load_headroom,
    )


def _front(options: list[Option]) -> set[int]:
    figures = {id(option): _figures(option) for option in options}
    return {
        key
        for key, mine in figures.items()
        if not any(
            all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine
            for other in figures.values()
        )
    }


def _figures(option: Option) -> tuple[float, float, float]:
    """What is better when it is less: cost (cards without a price), seconds a token, and head-room with its sign turned."""
    cost = option.cost_per_hour if option.cost_per_hour is not None else float(option.gpus)
    return cost, option.tpot_s.best, -option.load_headroom
