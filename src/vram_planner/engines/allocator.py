"""How PyTorch's CUDA caching allocator rounds what is asked of it."""

from __future__ import annotations

from vram_planner.units import MIB, round_up

_SMALL = MIB  # blocks up to here come from the small pool
_OWN_SEGMENT = 10 * MIB  # from here on each block gets a segment of its own
_SEGMENT = 2 * MIB
_QUANTUM = 512


def allocated_bytes(n_bytes: int) -> int:
    """
    Bytes that `torch.cuda.memory_allocated` counts for one tensor of `n_bytes`.

    Sizes round up to 512 B. From 10 MiB on, a segment of whole 2 MiB is taken, and what is left of it
    is split off only if it is more than 1 MiB: up to 1 MiB stays with the tensor. That is why a
    Qwen2.5-7B of 14.185 GiB is logged as 14.25 GiB.
    Source: should_split and round_size, PyTorch c10/cuda/CUDACachingAllocator.cpp.
    """
    size = round_up(n_bytes, _QUANTUM)
    if size < _OWN_SEGMENT:
        return size
    segment = round_up(size, _SEGMENT)
    return segment if segment - size <= _SMALL else size
