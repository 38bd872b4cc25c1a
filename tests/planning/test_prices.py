from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import vram_planner as vp
from vram_planner.errors import RequestError
from vram_planner.hardware_profiles import find_gpu
from vram_planner.planning.prices import Prices, read_prices

ROW = {"gpu": "L4", "per_hour": 0.5, "currency": "EUR", "date": "2026-11", "source": "our offer"}


def test_the_catalogues_price_has_its_seller_and_date() -> None:
    found = Prices().rent(find_gpu("H100").gpu)

    assert found is not None
    assert found[1] == "RunPod Secure Cloud, 2026-11"


def test_a_csv_file_goes_first_in_its_own_currency(tmp_path: Path) -> None:
    file = tmp_path / "prices.csv"
    file.write_text("gpu,per_hour,purchase,currency,date,source\nL4,0.5,2400,EUR,2026-11,our offer\n")
    prices = read_prices(file)

    assert prices.currency == "EUR"
    assert prices.rent(find_gpu("L4").gpu) == (0.5, "our offer, 2026-11")
    assert prices.purchase(find_gpu("L4").gpu) == (2400.0, "our offer, 2026-11")
    assert prices.rent(find_gpu("H100").gpu) is None  # dollars are not mixed with it

    option = vp.size("7b", users=2, ctx=4096, gpus=["L4"], prices=file).options[0]
    assert option.currency == "EUR"
    assert option.cost_per_hour == 0.5 * option.gpus


def test_a_json_file_may_say_currency_date_and_source_once(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    common = {"currency": "USD", "date": "2026-11", "source": "contract"}
    file.write_text(json.dumps({**common, "prices": [{"gpu": "h100", "per_hour": 2}]}))
    prices = read_prices(file)

    assert prices.rent(find_gpu("H100").gpu) == (2.0, "contract, 2026-11")
    assert prices.rent(find_gpu("L4").gpu) is not None  # the catalogue's, for it is in dollars too


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{**ROW, "per_hour": -1}],
        [{**ROW, "per_hour": "dear"}],
        [{**ROW, "gpu": "no such card"}],
        [{**ROW, "date": ""}],
        [{key: value for key, value in ROW.items() if key != "source"}],
        [{key: value for key, value in ROW.items() if key != "currency"}],
        [ROW, {**ROW, "gpu": "H100", "currency": "USD"}],
        [ROW, {**ROW, "gpu": "NVIDIA L4"}],
        [{**ROW, "gpu": "2x L4"}],
        [{**ROW, "per_hour": float("nan")}],
        [{**ROW, "per_hour": float("inf")}],
        [{**ROW, "per_hour": 10**400}],
        [{**ROW, "per_hour": True}],
        [{**ROW, "per_hour": 0}],
        [{**ROW, "date": "never"}],
        [{**ROW, "currency": ["EUR"]}],
        [{**ROW, "currency": "E\x1b[31mUR"}],
        [{**ROW, "currency": "E" * 500}],
        [{**ROW, "gpu": {"a": 1}}],
        [{**ROW, "source": "\n\t "}],
        [{**ROW, "pirce": 1}],
    ],
)
def test_a_row_that_cannot_be_used_is_refused(rows: list[dict[str, object]], tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(rows))

    with pytest.raises(RequestError):
        read_prices(file)


HEAD = "gpu,per_hour,purchase,currency,date,source\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("card,price\nL4,2\n", "no column is called 'card'"),
        (HEAD.replace(",", ";") + "L4;2;;EUR;2026-11;me\n", "no column is called 'gpu;per_hour"),
        (HEAD + "L4,2\n", "row 1 lacks its currency"),
        (HEAD + "L4,2,,EUR,2026-11,me,more\n", "row 1 has more fields than there are columns"),
        (HEAD + "L4,-2,,EUR,2026-11,me\n", "per_hour '-2' is no price"),
        (HEAD + "L4,nan,,EUR,2026-11,me\n", "per_hour 'nan' is no price"),
        (HEAD + '"L4,2,,EUR,2026-11,me\n', "is no CSV"),
        (HEAD + "L4,2,,EUR,2026-11," + "x" * 200_000 + "\n", "is no CSV"),
        (HEAD + "L4,2,,EUR,2026-11,me\nH100,2,,USD,2026-11,me\n", "'EUR', 'USD'"),
        (HEAD + "L4,2,,EUR,2026-11,me\nL4,3,,EUR,2026-11,me\n", "row 2: NVIDIA L4 has a price already"),
        (HEAD + "H900,2,,EUR,2026-11,me\n", "no GPU 'H900'"),
        (HEAD + "L4,2,,EUR,2026-11,me\n" * 500_000, "too large"),
        ("[" * 100_000, "is no JSON"),
        ('[{"gpu": "L4", "per_hour": ' + "9" * 5000 + "}]", "is no JSON"),
    ],
)
def test_a_hostile_file_is_refused_with_what_is_wrong(text: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "prices"
    file.write_text(text)

    with pytest.raises(RequestError, match=re.escape(why)) as refused:
        read_prices(file)
    assert refused.value.hint
    assert len(str(refused.value)) < 500 + len(str(file))


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no endless file here")
def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(RequestError, match="too large"):
        read_prices("/dev/zero")


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text(json.dumps([{**ROW, "source": "our\x1b[2J\n offer"}]))

    assert read_prices(file).rent(find_gpu("L4").gpu) == (0.5, "our[2J offer, 2026-11")


def test_a_card_is_bought_at_the_list_price_else_at_what_was_asked_for_it() -> None:
    assert Prices().purchase(find_gpu("RTX 5090").gpu) == (1999.0, "list price at release, 2025-01")
    assert Prices().purchase(find_gpu("L40S").gpu) == (9749.95, "Amazon.com offer, 2024-11")
    assert Prices().purchase(find_gpu("H200").gpu) is None
    assert Prices(currency="EUR").purchase(find_gpu("L40S").gpu) is None


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"prices": 3}', "gpu\n"])
def test_a_file_that_cannot_be_read_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "prices"
    file.write_text(text)

    with pytest.raises(RequestError):
        read_prices(file)
    with pytest.raises(RequestError):
        read_prices(tmp_path / "missing")
