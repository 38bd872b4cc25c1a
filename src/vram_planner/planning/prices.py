"""What cards cost: the catalogue's rents and list prices, or a file of your own; each with its date and source."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vram_planner.errors import PlannerError, RequestError
from vram_planner.hardware_profiles import find_gpu

if TYPE_CHECKING:
    from vram_planner.hardware_profiles import Gpu

HOURS_A_YEAR = 8766.0
HOURS_A_MONTH = HOURS_A_YEAR / 12
_DOLLAR = "USD"
_LARGEST_FILE = 1 << 22
_LONGEST_CURRENCY, _LONGEST_WORDS = 12, 200
_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")
_COLUMNS = ("gpu", "per_hour", "purchase", "currency", "date", "source")
_HINT = "columns gpu, per_hour, purchase, currency, date, source: a price, its currency, date and source are needed"


@dataclass(frozen=True, slots=True, kw_only=True)
class CardPrice:
    """What one card costs: `per_hour` rented, `purchase` bought; None where not known. `label` names who and when."""

    per_hour: float | None = None
    purchase: float | None = None
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices in one currency, by the card's name in the catalogue; `own` came from a file and go first."""

    currency: str = _DOLLAR
    own: dict[str, CardPrice] = field(default_factory=dict)

    def rent(self, gpu: Gpu) -> tuple[float, str] | None:
        """Price of an hour of one card and where it comes from."""
        mine = self.own.get(gpu.name)
        if mine is not None and mine.per_hour is not None:
            return mine.per_hour, mine.label
        price = gpu.hourly_price if self.currency == _DOLLAR else None
        return None if price is None else (price.middle, price.label)

    def purchase(self, gpu: Gpu) -> tuple[float, str] | None:
        """Price of one card and where it comes from: the maker's list price, else what a shop or the press asked."""
        mine = self.own.get(gpu.name)
        if mine is not None and mine.purchase is not None:
            return mine.purchase, mine.label
        price = gpu.purchase_price if self.currency == _DOLLAR else None
        return None if price is None else (price.middle, price.label)


@dataclass(frozen=True, slots=True, kw_only=True)
class Buying:
    """
    Cards that are bought: written off over `years`, with power at `power_price` a kWh.

    `price` overrides the price of each card. Cards draw their full rated power for `utilisation` of the time.
    Leaves out: servers, network, cooling, space and people.
    """

    years: float = 3.0
    power_price: float = 0.0
    price: float | None = None

    def per_hour(self, price: float, tdp_w: int, utilisation: float) -> float:
        """Price of an hour of one card: P / (years · 8,766 h) + kW · utilisation · power price."""
        return price / (self.years * HOURS_A_YEAR) + tdp_w / 1000 * utilisation * self.power_price


def read_prices(path: str | Path) -> Prices:
    """
    Prices of a CSV or JSON file: one row a card, all of one currency.

    JSON: a list of rows, or {"prices": [rows]} beside which currency, date and source may stand for all rows.
    Raises RequestError for a file or a row that cannot be read, and what find_gpu raises for unknown cards.
    """
    file = Path(path)
    try:
        with file.open("rb") as opened:
            read = opened.read(_LARGEST_FILE + 1)
        if len(read) > _LARGEST_FILE:
            raise RequestError(f"{file} is too large for a list of prices", hint=_HINT)
        text = read.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise RequestError(f"cannot read the prices {file}: {error}", hint=_HINT) from error
    rows = _json_rows(text, file) if text.lstrip()[:1] in ("{", "[") else _csv_rows(text, file)
    if not rows:
        raise RequestError(f"{file} has no prices", hint=_HINT)
    own: dict[str, CardPrice] = {}
    currencies: dict[str, None] = {}
    for number, row in enumerate(rows, 1):
        where = f"{file}, row {number}"
        _check_columns(row, where)
        currencies[_currency(row, where)] = None
        name, price = _card_price(row, where)
        if name in own:
            raise RequestError(
                f"{where}: {name} has a price already", hint="one row a card, rent and purchase in it"
            )
        own[name] = price
    if len(currencies) != 1:
        raise RequestError(
            f"{file}: every row needs the same currency, there are {', '.join(sorted(map(repr, currencies)))}",
            hint="prices in several currencies cannot be ranked: convert them, and say the date of the rate",
        )
    return Prices(currency=next(iter(currencies)), own=own)


def _json_rows(text: str, file: Path) -> list[dict[str, Any]]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{file} is no JSON: {str(error)[:200]}", hint=_HINT) from error
    common: dict[str, Any] = {}
    if isinstance(document, dict):
        common = {key: value for key, value in document.items() if key != "prices"}
        document = document.get("prices")
    if not isinstance(document, list) or not all(isinstance(row, dict) for row in document):
        raise RequestError(f"{file}: not a list of prices", hint=_HINT)
    return [{**common, **row} for row in document]


def _csv_rows(text: str, file: Path) -> list[dict[str, Any]]:
    try:
        return [dict(row) for row in csv.DictReader(io.StringIO(text), strict=True)]
    except csv.Error as error:
        raise RequestError(f"{file} is no CSV: {error}", hint=_HINT) from error


def _check_columns(row: dict[str, Any], where: str) -> None:
    if None in row:
        raise RequestError(f"{where} has more fields than there are columns", hint=_HINT)
    unknown = [key for key in row if key not in _COLUMNS]
    if unknown:
        raise RequestError(f"{where}: no column is called {str(unknown[0])[:40]!r}", hint=_HINT)


def _currency(row: dict[str, Any], where: str) -> str:
    found = row.get("currency")
    label = found.strip() if isinstance(found, str) else ""
    if not label:
        raise RequestError(f"{where} lacks its currency", hint=_HINT)
    if len(label) > _LONGEST_CURRENCY or not label.isprintable():
        raise RequestError(
            f"{where}: {label[:_LONGEST_CURRENCY]!r} is no currency",
            hint="a label of a few letters, as in EUR",
        )
    return label


def _card_price(row: dict[str, Any], where: str) -> tuple[str, CardPrice]:
    try:
        choice = find_gpu(str(row.get("gpu") or ""))
    except PlannerError as error:
        raise RequestError(f"{where}: {error}", hint=error.hint) from error
    if choice.count != 1:
        raise RequestError(
            f"{where}: the price of {choice.count} cards", hint="that of one card, under its name alone"
        )
    gpu = choice.gpu
    date, source = (_words(row.get(key)) for key in ("date", "source"))
    rent, purchase = (_amount(row.get(key), key, where) for key in ("per_hour", "purchase"))
    if not date or not source or (rent is None and purchase is None):
        raise RequestError(f"{where} lacks a price, its date or its source", hint=_HINT)
    if not _YEAR.search(date):
        raise RequestError(f"{where}: {date[:40]!r} is no date", hint="year and month, as in 2026-11")
    return gpu.name, CardPrice(per_hour=rent, purchase=purchase, label=f"{source}, {date}")


def _words(value: Any) -> str:
    """One printable line."""
    text = " ".join(str(value or "").split())
    return "".join(letter for letter in text if letter.isprintable())[:_LONGEST_WORDS]


def _amount(value: Any, key: str, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        amount = float(value)
    except (TypeError, ValueError, OverflowError):
        amount = -1.0
    if isinstance(value, bool) or not 0 < amount < float("inf"):
        raise RequestError(f"{where}: {key} {str(value)[:40]!r} is no price", hint="a number above zero")
    return amount
