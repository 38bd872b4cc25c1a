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


# Worked out beforehand on paper from the file's prices: 365.25 days of 24 hours are 8,766 hours, 730.5 a month.
BY_HAND = [
    # Rent: 8 × 2.00 = 16.00 an hour, × 730.5 = 11,688; 2/s × 500 tokens for half of the time are 1.8 M an hour.
    ({"rate": 2.0, "utilisation": 0.5}, {}, 2.00, 11_688.0, 8.888888889),
    # Bought: 25,000 / (4 × 8,766) = 0.712981976, 0.7 kW × 0.5 × 0.25 = 0.0875; 0.800481976 each; 1.8 M tokens an hour.
    (
        {"rate": 2.0, "utilisation": 0.5},
        {"years": 4, "power_price": 0.25},
        0.800481976,
        4_678.016667,
        3.557697670,
    ),
    # Bought, 1 year, always busy: 25,000 / 8,766 = 2.851927903, 0.7 × 0.40 = 0.28; 5/s × 500 are 9 M tokens an hour.
    ({"rate": 5.0}, {"years": 1, "power_price": 0.40}, 3.131927903, 18_302.986667, 2.783935914),
]


@pytest.mark.parametrize(
    ("asked", "buying", "costs"), [(asked, buying, costs) for asked, buying, *costs in BY_HAND]
)
def test_three_examples_on_paper(
    asked: dict[str, Any], buying: dict[str, float], costs: list[float], prices: Path
) -> None:
    """Of eight cards: what each costs an hour, all of them a month, and a million generated tokens."""
    each, month, million = costs
    found = sized(
        prices, users=None, think_s=0.0, gpus=["H100"], prompt_tokens=500, output_tokens=500, **asked,
        **({"buying": Buying(**buying)} if buying else {}),
    )  # fmt: skip
    option = found.options[0]
    share = option.gpus / 8  # all three are in proportion to the cards

    assert option.cost_per_hour == pytest.approx(each * option.gpus)
    assert option.cost_per_month == pytest.approx(month * share)
    assert option.cost_per_million_tokens.best == pytest.approx(million * share)
    assert option.power_w == 700 * option.gpus


def test_the_same_costs_stand_in_a_comparison(prices: Path) -> None:
    """Two cards at 2.00 an hour: 4.00 × 730.5 a month; a million tokens take 1e6 / (tokens/s × 3,600) hours of them."""
    (side,) = vp.compare(["7b"], gpu="2x H100", ctx=8192, prices=prices).sides

    assert side.cost_per_month == pytest.approx(2922.0)
    assert side.full_tokens_per_s is not None
    assert side.cost_per_million_tokens is not None
    assert side.cost_per_month_each == pytest.approx(2922.0 / side.full_at_once)
    for cost, speed in (("low", "high"), ("best", "best"), ("high", "low")):
        hours = 1e6 / (getattr(side.full_tokens_per_s, speed) * 3600)
        assert getattr(side.cost_per_million_tokens, cost) == pytest.approx(4.0 * hours)


def test_a_card_that_nobody_lists_is_bought_at_what_a_shop_asked() -> None:
    option = vp.size("7b", ctx=4096, users=2, gpus=["L4"], buying=Buying(years=1)).options[0]

    assert option.cost_source == "purchase: Amazon.com offer, 2025-08"
    assert option.cost_per_hour == pytest.approx(option.gpus * 2500 / 8766)
