from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vram_planner.hardware_profiles as room
from vram_planner.errors import CatalogueError
from vram_planner.hardware_profiles import all_gpus, gpus_from_file
from vram_planner.hardware_profiles.rows import gpu_from_row
from vram_planner.hardware_profiles.schema import check_row
from vram_planner.units import GIB

_FILE = Path(room.__file__).with_name("catalogue") / "gpus.jsonl"
_LINES = _FILE.read_text(encoding="utf-8").splitlines()
_ROW: dict[str, Any] = {
    "name": "ACME One 24GB",
    "vendor": "acme",
    "architecture": "One",
    "nameplate_bytes": 24 * GIB,
    "source": ["https://acme.example/one"],
    "date": "2026-11",
}


def test_the_catalogue_has_its_191_products() -> None:
    assert len(all_gpus()) == len(_LINES) == 191
    assert len({gpu.name for gpu in all_gpus()}) == 191


@pytest.mark.parametrize("line", _LINES, ids=lambda line: json.loads(line)["name"])
def test_each_row_fits_the_schema(line: str) -> None:
    check_row(line, where=_FILE.name)


def test_the_fast_loader_and_the_checked_one_agree() -> None:
    assert gpus_from_file(_FILE) == all_gpus()


def test_every_row_has_a_source_a_date_and_a_total() -> None:
    for gpu in all_gpus():
        assert gpu.source
        assert gpu.date == "2026-11"
        assert gpu.nameplate_bytes is not None
        assert 0.5 * gpu.nameplate_bytes < gpu.total_bytes <= gpu.nameplate_bytes


def test_every_price_says_who_and_when() -> None:
    prices = [price for gpu in all_gpus() for price in gpu.prices]

    assert len(prices) >= 90
    assert sum(bool(gpu.prices) for gpu in all_gpus()) >= 34
    assert all(price.seller and price.date and 0 < price.low <= price.high < 20 for price in prices)
    assert all("https://" in price.source or "github.com/" in price.source for price in prices)


def test_every_purchase_price_says_who_when_and_where() -> None:
    """Cards whose makers publish no list price: a shop's offer or a price in the press, each read on a page that is named."""
    bought = {gpu.name: gpu.purchases for gpu in all_gpus() if gpu.purchases}

    assert len(bought) == 15
    for name, prices in bought.items():
        assert all(
            "https://" in price.source and 300 < price.low <= price.high < 50_000 for price in prices
        ), name
        assert all(re.fullmatch(r"20\d\d-\d\d", price.date) for price in prices)


def test_the_price_that_stands_for_a_card_is_no_outlier() -> None:
    """Within a factor of three of every other offer of somebody who is not a marketplace or a hyperscaler."""
    for gpu in all_gpus():
        stands = gpu.hourly_price
        for price in gpu.prices:
            if stands is not None and not price.seller.startswith(("Akash", "AWS", "hyperscalers")):
                assert 1 / 3 < price.middle / stands.middle < 3, (gpu.name, price)


def test_rates_are_in_a_credible_range() -> None:
    """A slip between dense and sparse is a factor of two; a slip of units is one of a thousand."""
    for gpu in all_gpus():
        assert gpu.bandwidth_bytes_per_s is None or 5e10 < gpu.bandwidth_bytes_per_s < 1e13
        fp16, fp8 = gpu.tflops("fp16"), gpu.tflops("fp8")
        assert fp16 is None or fp16 < 3000
        assert fp16 is None or fp8 is None or fp16 <= fp8 <= 4.02 * fp16


@pytest.mark.parametrize("source", [None, [], ""])
def test_a_row_without_a_source_does_not_load(source: Any) -> None:
    with pytest.raises(CatalogueError, match="names no source"):
        gpu_from_row(_ROW | {"source": source})


def test_a_misspelt_key_does_not_load() -> None:
    with pytest.raises(CatalogueError, match="bandwith"):
        gpu_from_row(_ROW | {"bandwith_bytes_per_s": 1})
    with pytest.raises(CatalogueError, match=r"gpus\.jsonl:7: bandwith_bytes_per_s: Extra inputs"):
        check_row(json.dumps(_ROW | {"bandwith_bytes_per_s": 1}), where="gpus.jsonl:7")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"source": []}, "source"),
        ({"nameplate_bytes": "24GiB"}, "nameplate_bytes"),
        ({"nameplate_bytes": 0}, "nameplate_bytes"),
        ({"nameplate_bytes": 24.0 * GIB + 0.5}, "nameplate_bytes"),
        ({"reported_bytes": 25 * GIB}, "does not hold"),
        ({"dense_tflops": {"fp16_sparse": 1.0}}, "dense_tflops"),
        ({"dense_tflops": {"fp8": 1.0}, "unsupported": ["fp8"]}, "both a rate and unsupported: fp8"),
        ({"verified_fields": ["memory"]}, "verified_fields names 'memory'"),
        ({"prices": [{"seller": "x", "date": "2026-11", "low": 2.0, "high": 1.0}]}, "low is above high"),
        ({"prices": [{"seller": "x", "low": 1.0, "high": 1.0}]}, "prices.0.date"),
        ({"pcie": "16 lanes"}, "pcie"),
        ({"date": "last week"}, "date"),
    ],
)
def test_a_row_that_cannot_be_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(CatalogueError, match=complaint):
        check_row(json.dumps(_ROW | change), where="mine.jsonl:1")


def test_a_file_of_your_own_loads(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(_ROW | {"torch_total_bytes": 23 * GIB}) + "\n\n", encoding="utf-8")

    (gpu,) = gpus_from_file(path)

    assert (gpu.name, gpu.total_bytes) == ("ACME One 24GB", 23 * GIB)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[1]", b"{", b"null"])
def test_a_file_that_is_no_catalogue_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)

    with pytest.raises(CatalogueError):
        gpus_from_file(path)


def test_the_row_of_the_how_to_loads() -> None:
    how_to = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-gpu.md"
    block = how_to.read_text(encoding="utf-8").partition("```json\n")[2].partition("\n```")[0]

    row = check_row(block, where=how_to.name)

    assert (row.name, row.nameplate_bytes) == ("ACME One 24GB", 24 * GIB)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="cannot read"):
        gpus_from_file(tmp_path / "none.jsonl")


def test_a_look_up_loads_neither_pydantic_nor_pynvml() -> None:
    code = "import sys, vram_planner.hardware_profiles as room; room.find_gpu('4090'); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert {"pydantic", "pynvml", "difflib", "vram_planner.hardware_profiles.nvml"}.isdisjoint(
        run.stdout.split()
    )


def test_the_catalogue_is_read_once() -> None:
    """Its values are frozen, so that one reading serves all."""
    assert all_gpus() is all_gpus()


def test_every_public_name_is_there() -> None:
    for name in room.__all__:
        assert getattr(room, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nvml_everything'"):
        _ = room.nvml_everything
