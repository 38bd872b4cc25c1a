"""A sweep's answer: columns over the product of models, formats, cards, contexts and concurrencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vram_planner.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

VERDICTS = ("fits", "may fit", "does not fit", "refused")
REFUSED = 3
AXES = ("model", "quant", "gpu", "count", "tp", "pp", "ctx", "concurrency")
FIGURES = ("total_bytes", "weights_bytes", "kv_cache_bytes", "headroom_bytes", "max_concurrency")
SPEEDS = ("ttft_s", "tpot_s", "output_tokens_per_s")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Table:
    """
    One cell for each combination, the last axis fastest: models, formats, cards, contexts, concurrencies.

    `figures` are numpy arrays of five dimensions, `verdicts` indices into VERDICTS. A cell that a plan refuses has
    the verdict 'refused', zeros here, None in rows, and its reason in `reason`.
    """

    models: tuple[str, ...]
    quants: tuple[str, ...]
    gpus: tuple[tuple[str, int], ...]
    ctx: tuple[int, ...]
    concurrency: tuple[int, ...]
    figures: dict[str, Any]
    verdicts: Any
    layouts: dict[tuple[int, int, int], tuple[int, int]]
    formats: dict[tuple[int, int], str]
    names: dict[int, str]
    reasons: dict[tuple[int, int, int], str]

    def __len__(self) -> int:
        """Cells."""
        return int(self.verdicts.size)

    @property
    def any_fits(self) -> bool:
        """Whether one cell fits by the best estimate."""
        fits = (self.verdicts != REFUSED) & (self.figures["headroom_bytes"] >= 0)
        return bool(fits.any())

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return (*AXES, "fits", "verdict", *self.figures, "reason")

    def array(self, figure: str) -> Any:
        """One figure as a flat numpy array, zero where refused: 'verdict' gives indices into VERDICTS."""
        if figure == "verdict":
            return self.verdicts.reshape(-1)
        if figure not in self.figures:
            raise RequestError(f"no figure is called {figure!r}", hint=f"verdict, {', '.join(self.figures)}")
        return self.figures[figure].reshape(-1)

    def rows(self) -> Iterator[dict[str, Any]]:
        """One cell after the other as a row of plain values."""
        flat = {
            name: values.reshape(-1, len(self.ctx) * len(self.concurrency))
            for name, values in self.figures.items()
        }
        verdicts = self.verdicts.reshape(-1, len(self.ctx) * len(self.concurrency))
        cells = [(ctx, concurrency) for ctx in self.ctx for concurrency in self.concurrency]
        block = 0
        for m, model in enumerate(self.models):
            for q, quant in enumerate(self.quants):
                for g, (gpu, count) in enumerate(self.gpus):
                    tp, pp = self.layouts.get((m, q, g), (None, None))
                    named = {
                        "model": self.names.get(m, model), "quant": self.formats.get((m, q), quant), "gpu": gpu, "count": count,
                        "tp": tp, "pp": pp,
                    }  # fmt: skip
                    figures = [(name, values[block].tolist()) for name, values in flat.items()]
                    told, reason = verdicts[block].tolist(), self.reasons.get((m, q, g))
                    for index, (ctx, concurrency) in enumerate(cells):
                        refused = told[index] == REFUSED
                        mine = {name: None if refused else _known(values[index]) for name, values in figures}
                        room = mine["headroom_bytes"]
                        yield {
                            **named,
                            "ctx": ctx,
                            "concurrency": concurrency,
                            "fits": None if room is None else room >= 0,
                            "verdict": VERDICTS[told[index]],
                            **mine,
                            "reason": reason,
                        }
                    block += 1

    def to_rows(self) -> list[dict[str, Any]]:
        """All rows at once."""
        return list(self.rows())

    def to_dict(self) -> dict[str, list[Any]]:
        """Each column as a list of plain values."""
        columns: dict[str, list[Any]] = {name: [] for name in self.columns}
        for row in self.rows():
            for name, values in columns.items():
                values.append(row[name])
        return columns


def _known(value: float) -> float | None:
    """A figure; None where it is not a number: no speed is known."""
    return None if value != value else value  # noqa: PLR0124  only NaN differs from itself
