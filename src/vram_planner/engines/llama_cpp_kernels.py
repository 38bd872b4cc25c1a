"""
Which flash attention kernel CUDA takes, as far as memory goes: the one for few tokens reads a cache's own types, the others halves.

Source (b11434): ggml/src/ggml-cuda/fattn.cu, ggml_cuda_get_best_fattn_kernel and ggml_cuda_get_fattn_vec_case;
ggml/CMakeLists.txt, GGML_CUDA_FA_QUANTS (the pairs of types that a build has by default).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vram_planner.architecture.cache import KvCache
    from vram_planner.engines.llama_cpp_layout import Setting

ADA, TURING, VOLTA, OLDER = "8.9", "7.5", "7.0", "older"  # kinds of cards by the least compute capability
_AS_THEY_ARE = ("q4_0", "q8_0", "bf16")  # types of keys and values alike
_HALVES = ("f16", "bf16")
_WIDEST, _STEP, _UNEVEN = 256, 64, 192  # head sizes
_CELLS = 256  # FATTN_KQ_STRIDE
_MANY_QUERIES, _WIDE, _LONG = 4, 256, 8192
_MOST_SHARED = 8
_PAIR = 2


def cards_of(capability: tuple[int, int] | None) -> str:
    """The kind of a card; one without a name counts as the newest."""
    if capability is None or capability >= (8, 9):
        return ADA
    if capability >= (7, 5):
        return TURING
    return VOLTA if capability >= (7, 0) else OLDER


def reads_own_types(setting: Setting) -> bool:
    """Whether the kernel for few tokens is built for the cache's types, which other kernels copy to halves."""
    return setting.flash and setting.type_k == setting.type_v and setting.type_k in _AS_THEY_ARE


def copies_halves(setting: Setting, cache: KvCache, heads: int, cells: int, tokens: int) -> bool:
    """Whether a cache that is not f16 is copied for a micro-batch of `tokens` a stream."""
    return not (reads_own_types(setting) and _takes_few(setting, cache, heads, cells, tokens))


def _takes_few(setting: Setting, cache: KvCache, heads: int, cells: int, tokens: int) -> bool:
    width, ratio = cache.key_dim, heads // cache.n_heads
    if width > _WIDEST or width % _STEP or width == _UNEVEN or cells % _CELLS:
        return False
    quantised = setting.type_k not in _HALVES
    if setting.cards == VOLTA:
        return tokens * _shared(ratio) <= _PAIR
    alone = tokens == 1 and ratio == 1
    if setting.cards == OLDER:
        return tokens <= _PAIR if quantised else alone
    if quantised:
        return tokens <= (_PAIR if setting.cards == ADA else 1)
    wide = ratio > _MANY_QUERIES and (width >= _WIDE or cells >= _LONG)
    return alone or (setting.cards == ADA and tokens == 1 and setting.streams == 1 and not wide)


def _shared(ratio: int) -> int:
    """How many query heads of a key head are worked on together."""
    together = 1
    while ratio % (2 * together) == 0 and together < _MOST_SHARED:
        together *= 2
    return together
