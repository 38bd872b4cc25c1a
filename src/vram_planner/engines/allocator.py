"""How PyTorch's CUDA caching allocator rounds what is asked of it."""

from __future__ import annotations

from bisect import bisect_left, insort
from functools import lru_cache

from vram_planner.units import MIB, round_up

_SMALL = MIB  # blocks up to here come from the small pool
_OWN_SEGMENT = 10 * MIB  # from here on each block gets a segment of its own
_SEGMENT = 2 * MIB
_SHARED_SEGMENT = 20 * MIB  # what tensors of more than 1 and less than 10 MiB share
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


@lru_cache(maxsize=256)
def held_bytes(sizes: tuple[int, ...]) -> int:
    """
    Bytes that `torch.cuda.memory_allocated` counts for tensors made in this order, none of them freed.

    As `allocated_bytes`, but tensors below 10 MiB share segments (2 MiB for those up to 1 MiB, 20 MiB for the
    others): the smallest free block that is large enough is taken, and up to 1 MiB that is left of a large one
    stays with it. OPT-125m's 238.9 MiB are so logged as 244.6.
    Source: malloc, get_free_block and should_split, PyTorch c10/cuda/CUDACachingAllocator.cpp.
    """
    total, free = 0, {True: list[int](), False: list[int]()}
    for asked in sizes:
        size = round_up(asked, _QUANTUM)
        small = size <= _SMALL
        if size >= _OWN_SEGMENT and not (free[False] and free[False][-1] >= size):
            total += allocated_bytes(size)
            left = round_up(size, _SEGMENT) - size
            if left > _SMALL:
                insort(free[False], left)
            continue
        blocks = free[small]
        at = bisect_left(blocks, size)
        block = blocks.pop(at) if at < len(blocks) else _SEGMENT if small else _SHARED_SEGMENT
        left = block - size
        if left >= _QUANTUM if small else left > _SMALL:
            insort(blocks, left)
            total += size
        else:
            total += block
    return total
