"""The rules for cards without a noted total, held against the cards of which somebody noted torch's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.hardware_profiles import Gpu, all_gpus
from vram_planner.hardware_profiles.totals import total_from_nameplate, total_from_reported
from vram_planner.units import GIB, MIB

# Windows keeps nothing back, so that one row is no case of the rule.
_BOTH = [
    gpu for gpu in all_gpus() if gpu.reported_bytes and gpu.torch_total_bytes and "Laptop" not in gpu.name
]
_NAMEPLATE = [gpu for gpu in all_gpus() if gpu.torch_total_bytes and "Laptop" not in gpu.name]


def test_there_are_enough_cards_to_hold_the_rules_against() -> None:
    assert len(_BOTH) == 21
    assert len(_NAMEPLATE) == 25


def test_the_rule_of_an_rtx_4090() -> None:
    """24564 MiB - 330 MiB - 24564 / 400 MiB = 24172.59 MiB; torch shows 23.64 GiB."""
    assert total_from_reported(24564 * MIB) == 25_346_797_732


@pytest.mark.parametrize("gpu", _BOTH, ids=lambda gpu: gpu.name)
def test_from_what_nvml_reports_the_rule_is_within_one_percent(gpu: Gpu) -> None:
    assert gpu.reported_bytes is not None
    assert total_from_reported(gpu.reported_bytes) == pytest.approx(gpu.torch_total_bytes, rel=0.01)


@pytest.mark.parametrize("gpu", _NAMEPLATE, ids=lambda gpu: gpu.name)
def test_from_the_nameplate_the_rule_is_within_one_and_a_half_percent(gpu: Gpu) -> None:
    assert gpu.nameplate_bytes is not None
    total = total_from_nameplate(gpu.nameplate_bytes, vendor=gpu.vendor, memory_kind=gpu.memory_kind)

    assert total == pytest.approx(gpu.torch_total_bytes, rel=0.015)


@pytest.mark.parametrize(
    ("vendor", "kind", "nameplate_gib", "total_gib"),
    [
        ("nvidia", "hbm", 80, 78.8),
        ("nvidia", "gddr", 24, 23.448),
        ("nvidia", "gddr-ecc", 24, 22.08),
        ("nvidia", "unified", 128, 121.6),
        ("apple", "unified", 36, 24),
        ("apple", "unified", 128, 96),
        ("amd", "unified", 128, 96),
        ("amd", "hbm", 192, 191.808),
        ("intel", "gddr", 16, 15.2),
        ("nvidia", None, 100, 95),
    ],
)
def test_each_kind_of_memory_has_its_ratio(
    vendor: str, kind: str | None, nameplate_gib: int, total_gib: float
) -> None:
    total = total_from_nameplate(nameplate_gib * GIB, vendor=vendor, memory_kind=kind)

    assert total == int(total_gib * GIB)


@given(st.integers(min_value=0, max_value=1 << 45), st.integers(min_value=0, max_value=1 << 40))
def test_a_larger_card_never_shows_less(reported_bytes: int, more_bytes: int) -> None:
    total = total_from_reported(reported_bytes)

    assert 0 <= total <= reported_bytes
    assert total <= total_from_reported(reported_bytes + more_bytes)
