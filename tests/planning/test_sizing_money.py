"""Costs, head-room and what breaks when the load doubles: every figure by hand, from a file of fixed prices."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import pytest

import vram_planner as vp
from vram_planner.planning.prices import Buying

if TYPE_CHECKING:
    from pathlib import Path

HOURS_A_YEAR = 365.25 * 24
PRICES = """gpu,per_hour,purchase,currency,date,source
L4,0.50,2400,EUR,2026-11,offer 1
H100,2.00,25000,EUR,2026-11,offer 1
"""
RATED_W = {"NVIDIA L4": 72, "NVIDIA H100 SXM5 80GB": 700}
PER_HOUR = {"NVIDIA L4": 0.50, "NVIDIA H100 SXM5 80GB": 2.00}
PURCHASE = {"NVIDIA L4": 2400, "NVIDIA H100 SXM5 80GB": 25_000}


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    file = tmp_path / "prices.csv"
    file.write_text(PRICES)
    return file


def sized(prices: Path, **more: Any) -> Any:
    asked: dict[str, Any] = {"ctx": 8192, "users": 60, "think_s": 10.0, "gpus": ["L4", "H100", "L40S"]}
    return vp.size("7b", prices=prices, **{**asked, **more})


def test_rent_by_hand(prices: Path) -> None:
    found = sized(prices, utilisation=0.5)
    priced = [option for option in found.options if option.gpu in PER_HOUR]

    assert len(priced) >= 2
    for option in priced:
        hour = option.gpus * PER_HOUR[option.gpu]
        stay = option.ttft_s.best + (4096 - 1) * option.tpot_s.best  # half of 8,192 tokens are the answer
        tokens_an_hour = 3600 * 60 * 4096 / (stay + 10)

        assert option.currency == "EUR"
        assert option.cost_source == "rent: offer 1, 2026-11"
        assert option.cost_per_hour == pytest.approx(hour)
        assert option.cost_per_month == pytest.approx(hour * HOURS_A_YEAR / 12)
        assert option.tokens_per_s.best == pytest.approx(tokens_an_hour / 3600)
        # Half of the time nobody is there, and the rent is due all the same.
        assert option.cost_per_million_tokens.best == pytest.approx(hour / (0.5 * tokens_an_hour) * 1e6)
        assert option.power_w == option.gpus * RATED_W[option.gpu]


def test_purchase_by_hand(prices: Path) -> None:
    found = sized(prices, buying=Buying(years=4, power_price=0.25), utilisation=0.5)
    for option in found.options:
        if option.gpu in PURCHASE:
            written_off = PURCHASE[option.gpu] / (4 * HOURS_A_YEAR)
            power = RATED_W[option.gpu] / 1000 * 0.5 * 0.25

            assert option.cost_per_hour == pytest.approx(option.gpus * (written_off + power))
            assert option.cost_source == "purchase: offer 1, 2026-11"


def test_a_card_without_a_price_stands_last_and_has_no_costs(prices: Path) -> None:
    last = sized(prices).options[-1]

    assert last.gpu == "NVIDIA L40S"
    assert (last.cost_per_hour, last.cost_per_month, last.cost_per_million_tokens) == (None, None, None)
    assert last.power_w == last.gpus * 350


def test_another_currency_leaves_out_no_card(prices: Path) -> None:
    found = sized(prices, gpus=())
    costs = [option.cost_per_hour for option in found.options]
    known = [cost for cost in costs if cost is not None]

    assert {option.gpu for option in found.options if option.cost_per_hour is not None} == set(PER_HOUR)
    assert len(known) < len(costs)
    assert costs[: len(known)] == sorted(known)


def test_the_front_by_hand(prices: Path) -> None:
    """Nothing off the front is on it, and what is on it is beaten by nobody: of priced rows by cost, speed, head-room."""
    found = sized(prices)
    figures = {
        rank: (inf if option.cost_per_hour is None else option.cost_per_hour, option.tpot_s.best, -option.load_headroom)
        for rank, option in enumerate(found.options)
    }  # fmt: skip
    for rank, option in enumerate(found.options):
        mine = figures[rank]
        beaten = option.cost_per_hour is None or any(
            all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine
            for other in figures.values()
        )
        assert option.pareto is not beaten


def test_twice_the_load_holds_or_breaks_as_said(prices: Path) -> None:
    """Each option is asked for again with twice the users and no more cards of it: it is there if it was said to hold."""
    for option in sized(prices).options:
        assert option.load_headroom == pytest.approx(option.carries / 60 - 1)
        assert option.survives_double is (option.carries >= 120)
        again = sized(prices, users=120, gpus=[option.gpu], max_gpus=option.gpus).options
        alike = [
            each for each in again if (each.tp, each.pp, each.gpus) == (option.tp, option.pp, option.gpus)
        ]
        if option.survives_double:
            assert alike or again  # another layout of as few cards may carry more
        else:
            assert not alike


def test_all_of_it_is_in_the_data(prices: Path) -> None:
    found = sized(prices)
    names = {
        "cost_per_hour", "cost_per_month", "currency", "cost_source", "power_w", "load_headroom", "breaks_first",
        "survives_double", "pareto", "carries", "headroom_bytes", "link", "nodes", "dp", "ep", "attention_dp",
    }  # fmt: skip
    for option, row, data in zip(found.options, found.to_rows(), found.to_dict()["options"], strict=True):
        assert names <= row.keys()
        assert names <= data.keys()
        assert all(row[name] == data[name] == getattr(option, name) for name in names)
        best = None if option.cost_per_million_tokens is None else option.cost_per_million_tokens.best
        assert row["cost_per_million_tokens_best"] == best
        assert row["tpot_s_best"] == data["tpot_s"]["best"] == option.tpot_s.best
