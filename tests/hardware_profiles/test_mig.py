from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vram_planner.hardware_profiles as room
from vram_planner.basis import Basis
from vram_planner.errors import UnknownGpuError
from vram_planner.hardware_profiles import Gpu, find_gpu
from vram_planner.units import GIB, MIB

_FILE = Path(room.__file__).with_name("catalogue") / "mig.jsonl"
_ROWS = [json.loads(line) for line in _FILE.read_text(encoding="utf-8").splitlines()]
_SLICES = [(name, profile) for row in _ROWS for name in row["gpus"] for profile in row["profiles"]]


@pytest.mark.parametrize(
    ("asked", "total_mib", "multiprocessors"),
    [
        ("H100 1g.10gb", 9984, 16),
        ("H100 3g.40gb", 40448, 60),
        ("A100 80GB 3g.40gb", 40192, 42),
        ("A100 40GB 1g.5gb", 4864, 14),
        ("H200 1g.18gb", 16384, 16),
        ("B200 1g.23gb", 20992, None),
        ("A30 2g.12gb", 11968, 28),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9984, 16),
        ("h100-1G.10GB", 9984, 16),
        ("H100 1g.10gb+me", 9984, 16),
    ],
)
def test_a_slice_has_the_memory_that_the_driver_lists(
    asked: str, total_mib: int, multiprocessors: int | None
) -> None:
    gpu = find_gpu(asked).gpu

    assert gpu.total_bytes == total_mib * MIB
    assert gpu.total_basis is Basis.MEASURED
    assert gpu.multiprocessors == multiprocessors
    assert gpu.slice_of is not None


def test_an_unlisted_slice_takes_the_least_share_seen_and_says_so() -> None:
    """A quarter of the B200's 178.36 GiB, times 0.924: 41.2 GiB of the 45 in its name."""
    gpu = find_gpu("B200 2g.45gb").gpu

    assert gpu.total_bytes == int(find_gpu("B200").gpu.total_bytes / 4 * 0.924)
    assert gpu.total_bytes / GIB == pytest.approx(41.2, abs=0.01)
    assert gpu.total_basis is Basis.ASSUMED
    assert gpu.total_detail == "0.924 of 1/4 of the card's total, the least seen: up to 9 % too low"


def test_a_slice_has_its_share_of_bandwidth_and_of_the_multiprocessors() -> None:
    """3g of an A100: four of eight memory slices, 42 of 108 multiprocessors; no NVLink between slices."""
    card, gpu = find_gpu("a100").gpu, find_gpu("a100 3g.40gb").gpu

    assert card.bandwidth_bytes_per_s == 2_039_000_000_000
    assert gpu.bandwidth_bytes_per_s == 1_019_500_000_000
    assert gpu.tflops("bf16") == pytest.approx(312 * 42 / 108)
    assert gpu.link_bytes_per_s == 0
    assert gpu.prices == ()


def test_without_known_multiprocessors_the_sevenths_count() -> None:
    assert find_gpu("B200 2g.45gb").gpu.tflops("bf16") == pytest.approx(2250 * 2 / 7)


def test_a_profile_that_the_card_has_not_is_refused_with_those_it_has() -> None:
    with pytest.raises(UnknownGpuError, match=r"no MIG profile 1g\.5gb") as caught:
        find_gpu("a100 1g.5gb")
    assert "it has 1g.10gb, 1g.20gb, 2g.20gb, 3g.40gb, 4g.40gb, 7g.80gb" in caught.value.hint
    assert "1g.5gb is a profile of NVIDIA A100 PCIe 40GB, NVIDIA A100 SXM4 40GB" in caught.value.hint


@pytest.mark.parametrize("asked", ["4090 1g.10gb", "H100 5g.10gb", "H100 1g.10gb+gfx", "nonsense 1g.10gb"])
def test_a_slice_that_cannot_be_is_refused(asked: str) -> None:
    with pytest.raises(UnknownGpuError):
        find_gpu(asked)


def test_every_row_names_cards_of_the_catalogue_and_a_source() -> None:
    assert len(_SLICES) == 82
    for row in _ROWS:
        assert row["source"]
        assert all(find_gpu(name).gpu.name == name for name in row["gpus"])


@given(st.sampled_from(_SLICES))
def test_a_slice_is_never_more_than_its_share(pair: tuple[str, str]) -> None:
    name, profile = pair
    card: Gpu = find_gpu(name).gpu
    gpu = find_gpu(f"{name} {profile}").gpu
    share = next(row["profiles"][profile]["memory_share"] for row in _ROWS if name in row["gpus"])

    # Listings round up to 1/16 GiB, hence the small room above the exact share.
    assert gpu.total_bytes <= card.total_bytes * share[0] / share[1] * 1.005
    assert gpu.total_bytes >= card.total_bytes * share[0] / share[1] * 0.9
    assert (gpu.tflops("bf16") or 0) <= (card.tflops("bf16") or 0)
    assert gpu.slice_of == name
