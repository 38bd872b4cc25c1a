"""vLLM's pages of compressed attention (DeepSeek-V4): packed side by side in one block, groups of many page sizes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from vram_planner.architecture.parallel import stage_layers
from vram_planner.engines.vllm_groups import Groups, Kind
from vram_planner.errors import PrecisionError, RequestError
from vram_planner.units import ceil_div, round_up

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vram_planner.architecture.cache import KvCache
    from vram_planner.engines.base import Ask

# The backends' kernels read blocks of this many uncompressed tokens, and no others.
COMPRESSED_BLOCK = 256
_WINDOW_BLOCK = 64
# fp8_ds_mla: 448 B without rotation, 64 · 2 B rotated, 8 B of scales for each entry, whatever --kv-cache-dtype says.
_ENTRY_BYTES, _ALIGNMENT = 584, 576
# The indexer's keys: FP8 with a float32 scale for each 128 of them.
_SCALED, _SCALE_BYTES, _FLOAT32_BYTES = 128, 4, 4
# Entries made of two series (every fourth token) wait in blocks of 4 tokens, the others in blocks of 8.
_OVERLAPPING, _SHORT_BLOCK, _LONG_BLOCK = 4, 4, 8
_ENTRY_WIDTH = 512


class _Page(NamedTuple):
    layer: int
    n_bytes: int


def compressed(ask: Ask) -> bool:
    """Whether the model keeps compressed entries beside a window."""
    return any(cache.compressed is not None for cache, _ in ask.architecture.caches)


def check_compressed(ask: Ask, kv_dtype: str) -> None:
    """
    Refuse what vLLM's DeepSeek-V4 does not take: another KV dtype than fp8, another block than 256.

    Raises PrecisionError or RequestError. Source: vLLM 0.32.0 models/deepseek_v4/attention.py,
    _resolve_dsv4_kv_cache_dtype; DeepseekV4IndexerBackend.get_supported_kernel_block_sizes.
    """
    if kv_dtype != "auto" and not kv_dtype.startswith("fp8"):
        raise PrecisionError(
            f"vLLM keeps DeepSeek-V4's cache in fp8 alone, not in {kv_dtype}", hint="--kv-dtype auto or fp8"
        )
    block = ask.options.block_size
    if block is not None and block != COMPRESSED_BLOCK:
        raise RequestError(
            f"DeepSeek-V4's kernels in vLLM read blocks of {COMPRESSED_BLOCK} tokens, not of {block}",
            hint=f"leave --block-size out, or give {COMPRESSED_BLOCK}",
        )


def compressed_groups(ask: Ask) -> Groups:
    """
    The groups of a model of compressed attention; every rank of tensor parallelism holds all of them.

        window          block of 64 tokens,  64 · 584 B
        entries         block of 256 tokens, 256/stride · 584 B
        indexer's keys  block of 256 tokens, 256/stride · (dim + 4 · dim/128) B
        waiting         the last `stride` tokens (2 · 4 where entries overlap) of each compressor, as a window:
                        blocks of 4 or 8 tokens, 2 · series · width · 4 B a token

    Each page is padded to a multiple of 576 B. Alike kinds form a bucket. A bucket with as many pages of each
    of its sizes is cut into groups of `repeats` of each, the number that pads least; others stay whole.
    A block has room for the widest group.
    Source: vLLM 0.32.0 v1/core/kv_cache_utils.py, _get_packed_kv_cache_groups; models/deepseek_v4/attention.py
    and compressor.py; v1/attention/backends/mla/sparse_swa.py.
    """
    groups = _cut(_buckets(ask))
    stages, start = [], 0
    for count in stage_layers(len(ask.architecture.layers), ask.layout.pp):
        mine = range(start, start + count)
        stages.append(max(sum(page.n_bytes for page in pages if page.layer in mine) for _, pages in groups))
        start += count
    return Groups(
        kinds=tuple(kind for kind, _ in groups), bytes_per_block=max(stages), block=COMPRESSED_BLOCK
    )


def _buckets(ask: Ask) -> dict[Kind, list[_Page]]:
    found: dict[Kind, list[_Page]] = {}

    def add(kind: Kind, layer: int, n_bytes: int) -> None:
        found.setdefault(kind, []).append(_Page(layer, round_up(n_bytes, _ALIGNMENT)))

    for index, layer in enumerate(ask.architecture.layers):
        cache, keys = layer.mixer.cache, layer.mixer.indexer
        if cache is None:
            continue
        if cache.key_dim != _ENTRY_WIDTH:
            raise PrecisionError(
                f"vLLM's format for DeepSeek-V4's cache has entries of {_ENTRY_WIDTH}, not of {cache.key_dim}",
                hint="--engine transformers; or check head_dim in the config",
            )
        add(Kind(window=cache.window, block=_WINDOW_BLOCK), index, _WINDOW_BLOCK * _ENTRY_BYTES)
        for far in (cache.compressed, keys):
            if far is None:
                continue
            entry = _ENTRY_BYTES if far is cache.compressed else _key_bytes(far)
            add(Kind(block=COMPRESSED_BLOCK), index, COMPRESSED_BLOCK // far.stride * entry)
            waiting, token = _waiting(far)
            add(waiting, index, waiting.block * token)
    return found


def _key_bytes(keys: KvCache) -> int:
    return keys.key_dim + _SCALE_BYTES * ceil_div(keys.key_dim, _SCALED)


def _waiting(far: KvCache) -> tuple[Kind, int]:
    """What a compressor keeps until its group of tokens is full, and its bytes a token: values and gates."""
    series = 2 if far.stride == _OVERLAPPING else 1
    block = _SHORT_BLOCK if series > 1 else _LONG_BLOCK
    return Kind(window=series * far.stride, block=block), 2 * series * far.key_dim * _FLOAT32_BYTES


def _cut(buckets: dict[Kind, list[_Page]]) -> list[tuple[Kind, list[_Page]]]:
    counts = {kind: Counter(page.n_bytes for page in pages) for kind, pages in buckets.items()}
    even = {kind: len(set(count.values())) == 1 for kind, count in counts.items()}
    least = max(
        (max(count.values()) for kind, count in counts.items() if even[kind] and len(count) > 1), default=0
    )
    repeats = (
        _padding_least([max(count.values()) for kind, count in counts.items() if even[kind]], least)
        if least
        else 0
    )
    numbers = {
        kind: ceil_div(max(count.values()), repeats) if repeats and even[kind] else 1
        for kind, count in counts.items()
    }
    if not repeats:
        _split_windows(buckets, counts, numbers)
    return [
        (kind, _every(pages, number, first))
        for kind, pages in buckets.items()
        for number in (numbers[kind],)
        for first in range(number)
    ]


def _split_windows(
    buckets: dict[Kind, list[_Page]], counts: dict[Kind, Counter[int]], numbers: dict[Kind, int]
) -> None:
    """Where nothing has to be packed, windows are cut so that they do not widen the block."""
    anchor = max(
        sum(
            ceil_div(n, numbers[kind] if kind.window is None else len(buckets[kind])) * page
            for page, n in count.items()
        )
        for kind, count in counts.items()
    )
    for kind, pages in buckets.items():
        if kind.window is not None:
            fitting = max(anchor // pages[0].n_bytes, 1)
            numbers[kind] = max(numbers[kind], ceil_div(len(pages), fitting))


def _every(pages: Sequence[_Page], number: int, first: int) -> list[_Page]:
    """Of each page size every `number`th page from `first` on."""
    if number == 1:
        return list(pages)
    by_size: dict[int, list[_Page]] = {}
    for page in pages:
        by_size.setdefault(page.n_bytes, []).append(page)
    return [page for alike in by_size.values() for page in alike[first::number]]


def _padding_least(counts: Iterable[int], least: int) -> int:
    """The group size from `least` on that pads these counts least, the largest of equals: _approximate_gcd."""
    values = list(counts)
    return min(
        range(least, max(values) + 1), key=lambda size: (sum(-value % size for value in values), -size)
    )
