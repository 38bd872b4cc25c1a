from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import vram_planner as vp
from vram_planner.errors import RequestError
from vram_planner.hardware_profiles import find_gpu
from vram_planner.planning.prices import Prices, read_prices

if TYPE_CHECKING:
    from pathlib import Path

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
        [{**ROW, "pirce": 1}],
    ],
)
def test_a_row_that_cannot_be_used_is_refused(rows: list[dict[str, object]], tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(rows))

    with pytest.raises(RequestError):
        read_prices(file)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"prices": 3}', "gpu\n"])
def test_a_file_that_cannot_be_read_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "prices"
    file.write_text(text)

    with pytest.raises(RequestError):
        read_prices(file)
    with pytest.raises(RequestError):
        read_prices(tmp_path / "missing")
