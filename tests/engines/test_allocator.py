from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.engines.allocator import allocated_bytes
from vram_planner.units import MIB


@pytest.mark.parametrize(
    ("asked", "allocated"),
    [
        (0, 0),
        (1, 512),
        (513, 1024),
        (5 * MIB, 5 * MIB),  # split from a 20 MiB segment
        (129 * MIB + MIB // 2, 130 * MIB),  # half a MiB left over stays with it
        (259 * MIB, 260 * MIB),  # just one MiB left over too
        (24 * MIB + MIB // 2, 24 * MIB + MIB // 2),  # 1.5 MiB left over is split off
    ],
)
def test_rounding_as_torch_counts_it(asked: int, allocated: int) -> None:
    """Source: PyTorch's CUDACachingAllocator; the sizes are those of Qwen2.5-7B's matrices."""
    assert allocated_bytes(asked) == allocated


@given(st.integers(0, 1 << 40))
def test_never_less_and_never_more_than_a_mebibyte_more(asked: int) -> None:
    assert 0 <= allocated_bytes(asked) - asked <= MIB
