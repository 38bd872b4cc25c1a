from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.engines.allocator import allocated_bytes, held_bytes
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
    # The size is rounded up to 512 B before what is left is compared with 1 MiB: 15,728,129 B hold 16 MiB.
    assert 0 <= allocated_bytes(asked) - asked < MIB + 512


def test_opt_125m_is_held_as_logged() -> None:
    """Logs of vLLM 0.3 to 0.8 say 0.2389 GiB for the 238.9 MiB of OPT-125m (vllm-project/vllm issues 3120, 15394)."""
    hidden, inner = 768, 3072
    square, vector, wide = 2 * hidden * hidden, 2 * hidden, 2 * inner * hidden
    layer = [
        3 * square,
        3 * vector,
        square,
        vector,
        vector,
        vector,
        wide,
        2 * inner,
        wide,
        vector,
        vector,
        vector,
    ]
    sizes = (50_272 * vector, 2050 * vector, *(layer * 12), vector, vector)

    assert sum(sizes) / MIB == pytest.approx(238.9, abs=0.05)
    assert held_bytes(sizes) / 2**30 == pytest.approx(0.2389, abs=0.00005)


@given(st.lists(st.integers(1, 30 * MIB), max_size=30))
def test_sharing_segments_never_holds_less_than_asked(sizes: list[int]) -> None:
    assert sum(sizes) <= held_bytes(tuple(sizes)) <= sum(sizes) + (MIB + 512) * len(sizes)
