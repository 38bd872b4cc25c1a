from __future__ import annotations

import json

import pytest

from vram_planner.basis import Basis
from vram_planner.errors import RequestError
from vram_planner.hardware_profiles import Gpu, Price, find_gpu
from vram_planner.units import GIB, MIB


def _gib(name: str) -> float:
    return round(find_gpu(name).gpu.total_bytes / GIB, 2)


@pytest.mark.parametrize(
    ("name", "total_gib"),
    [
        ("RTX 3090", 23.69),
        ("RTX 4090", 23.64),
        ("RTX 5090", 31.36),
        ("T4", 14.75),
        ("A10G", 22.06),
        ("L40S", 44.52),
        ("A6000", 47.54),
        ("A100 PCIe 40GB", 39.38),
        ("A100 80GB", 79.25),
        ("H100", 79.18),
        ("H200", 139.8),
        ("B200", 178.36),
        ("MI300X", 191.98),
    ],
)
def test_the_total_is_what_torch_shows(name: str, total_gib: float) -> None:
    gpu = find_gpu(name).gpu

    assert _gib(name) == total_gib
    assert gpu.total_basis is Basis.MEASURED


@pytest.mark.parametrize(("name", "seen_gib"), [("A10", 22.06), ("L4", 22.0)])
def test_a_card_without_a_noted_total_takes_the_rule_and_says_so(name: str, seen_gib: float) -> None:
    gpu = find_gpu(name).gpu

    assert gpu.total_bytes / GIB == pytest.approx(seen_gib, rel=0.01)
    assert gpu.total_basis is Basis.ASSUMED
    assert "as reported - 330 MiB - 1/400 of it" in gpu.total_detail


def test_the_three_memory_figures_of_a_card_differ() -> None:
    l40s = find_gpu("L40S").gpu

    assert l40s.nameplate_bytes == 48 * GIB
    assert l40s.reported_bytes == 46068 * MIB
    assert l40s.torch_total_bytes == 45589 * MIB


def test_a_card_known_by_its_nameplate_alone_says_by_which_rule() -> None:
    gpu = find_gpu("Arc Pro B60").gpu

    assert gpu.total_bytes == int(24 * GIB * 0.95)
    assert gpu.total_detail == "0.950 of the nameplate's 24 GiB, the rule for intel gddr"


def test_a_card_of_unknown_memory_is_refused_not_guessed() -> None:
    with pytest.raises(RequestError, match="nothing says how much memory") as caught:
        _ = Gpu(name="mystery").total_bytes
    assert "custom:24GiB" in caught.value.hint


def test_tflops_are_dense_and_read_torch_names() -> None:
    h100 = find_gpu("h100").gpu

    assert h100.tflops("bfloat16") == h100.tflops("bf16") == 989
    assert h100.tflops("fp8") == 1979
    assert h100.tflops("fp4") is None
    assert h100.supports("fp4") is False
    assert h100.supports("fp8") is True
    assert Gpu(name="custom").supports("bf16") is None


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(RequestError, match="unknown dtype 'fp7'"):
        find_gpu("h100").gpu.tflops("fp7")


def test_links_count_both_directions() -> None:
    """PCIe 5.0 x16: 16 lanes of 32 GT/s after 128b/130b, twice. NVLink 4: 900 GB/s."""
    h100 = find_gpu("h100").gpu

    assert h100.pcie_bytes_per_s == 126_032_000_000
    assert h100.link_bytes_per_s == 900 * 10**9
    assert find_gpu("4090").gpu.link_bytes_per_s == 0
    assert find_gpu("m3 ultra").gpu.pcie_bytes_per_s is None


def test_a_board_of_two_devices_is_one_of_them() -> None:
    gcd = find_gpu("MI250X").gpu

    assert gcd.nameplate_bytes == 64 * GIB
    assert gcd.torch_total_bytes == 65520 * MIB
    assert gcd.bandwidth_bytes_per_s == 1_638_500_000_000
    assert gcd.tflops("fp16") == 191.5


def test_a_price_has_a_seller_and_a_date() -> None:
    h100 = find_gpu("h100").gpu

    assert h100.hourly_price is not None
    assert (h100.hourly_price.low, h100.hourly_price.high) == (3.99, 3.99)
    assert h100.hourly_price.label == "RunPod Secure Cloud, 2026-11"
    assert "runpod.io/pricing" in h100.hourly_price.source
    assert find_gpu("3060 Ti").gpu.hourly_price is None
    assert Price(seller="x", date="2026", low=1.0, high=2.0).middle == 1.5


def test_the_row_is_plain_data() -> None:
    row = find_gpu("4090").gpu.to_row()

    assert json.loads(json.dumps(row)) == row
    assert row["total_bytes"] == 25_383_256_719
    assert row["bandwidth_bytes_per_s"] == 1008 * 10**9
    assert row["total_basis"] == "measured"
    assert (row["usd_per_hour"], row["usd_per_hour_label"]) == (0.69, "RunPod Secure Cloud, 2025-07")
    assert find_gpu("3060 Ti").gpu.to_row()["usd_per_hour"] is None


def test_explain_tells_what_was_seen_from_what_was_collected() -> None:
    figures = {field: (value, how) for field, value, how in find_gpu("h100").gpu.explain()}

    assert figures["reported_bytes"] == (81559 * MIB, "seen in a source")
    assert figures["tdp_w"] == (700, "seen in a source")
    assert figures["multiprocessors"] == (132, "as collected 2026-11, not checked")
    assert figures["usd_per_hour"][1].startswith("small clouds, 2026-05")


def test_a_card_can_key_a_dict_and_is_frozen() -> None:
    h100 = find_gpu("h100").gpu

    assert {h100: 1}[find_gpu("H100 SXM").gpu] == 1
    with pytest.raises(AttributeError):
        h100.name = "other"  # type: ignore[misc]
