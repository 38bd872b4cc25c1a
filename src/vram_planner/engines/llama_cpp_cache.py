"""llama.cpp: cells of a cache, and how many bytes of caches and states each GPU and the host hold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.attention import NoMixer
from vram_planner.architecture.cache import StateCache
from vram_planner.architecture.cross import BlockSparse
from vram_planner.architecture.gguf import GGML_TYPES
from vram_planner.architecture.storage import Blocks
from vram_planner.engines.llama_cpp_layout import HOST, device_of, row_bytes, row_padding
from vram_planner.errors import RequestError
from vram_planner.units import round_up

if TYPE_CHECKING:
    from vram_planner.architecture.cache import KvCache
    from vram_planner.architecture.model import Architecture
    from vram_planner.engines.llama_cpp_layout import Setting

_ALIGNMENT = 128
_CELLS = 256  # cells of a cache are rounded up to this
# Families whose windows llama.cpp honours; others that have one (Mistral 7B v0.1, Phi-3, Qwen2) keep all tokens.
_WINDOWED = (
    "gemma2",
    "gemma3",
    "gemma4",
    "gpt_oss",
    "cohere2",
    "llama4",
    "exaone4",
    "olmo3",
    "afmoe",
    "smallthinker",
    "mimo_v2_flash",
    "mellum",
    "granite_swa",
    "granitemoe_swa",
    "laguna",
    "exaone_moe",
    "muse_glimmer",
    "dots3_note",
    "step3p7",
)
# Families whose file has a window without the query's own token, which transformers counts.
_WITHOUT_QUERY = ("mimo_v2_flash",)
KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl")


def rounded_context(context: int) -> int:
    """A slot's context as llama.cpp rounds it. Source: src/llama-context.cpp, n_ctx_seq = GGML_PAD(…, 256)."""
    return round_up(context, _CELLS)


def honours_window(architecture: Architecture) -> bool:
    """Whether llama.cpp has a sliding window cache for this family."""
    return architecture.model_type.startswith(_WINDOWED)


def window_cells(setting: Setting, window: int) -> int:
    """
    Cells of one stream in a sliding layer: pad256(min(n_ctx, window · (slots if unified else 1) + ubatch)).

    Source: src/llama-kv-cache-iswa.cpp.
    """
    if setting.swa_full:
        return setting.stream_cells
    sequences = setting.slots if setting.unified else 1
    return round_up(min(setting.stream_cells, window * sequences + setting.fed), _CELLS)


def as_served(architecture: Architecture, cache: KvCache) -> KvCache:
    """
    The cache with the window that the file states.

    Source: conversion/mimo.py writes `sliding_window`, transformers reads `sliding_window_size` + 1.
    """
    if cache.window is None or not architecture.model_type.startswith(_WITHOUT_QUERY):
        return cache
    return replace(cache, window=cache.window - 1)


def cells_of(cache: KvCache, setting: Setting, *, windowed: bool) -> int:
    """Cells of one stream in a layer with that cache."""
    if cache.window is not None and windowed:
        return window_cells(setting, cache.window)
    return setting.stream_cells


def value_width(architecture: Architecture, cache: KvCache, setting: Setting) -> int:
    """
    Numbers of a row of values; without flash attention the widest row of all layers, for they are stored transposed.

    Source: src/llama-kv-cache.cpp, n_embd_v_gqa_max.
    """
    own = cache.n_heads * cache.value_dim
    if setting.flash or cache.latent:
        return own
    return max(other.n_heads * other.value_dim for other, _ in architecture.caches)


def cache_bytes(cache: KvCache, setting: Setting, values: int, *, windowed: bool, padded: bool = True) -> int:
    """
    Bytes of one layer's cache: streams · cells · (row of keys + row of `values`).

    Each of the two tensors is padded and aligned as weights are. MLA keeps its latent as keys and has no values.
    Source: src/llama-kv-cache.cpp.
    """
    cells = cells_of(cache, setting, windowed=windowed)
    total = 0
    for type_name, row in ((setting.type_k, cache.n_heads * cache.key_dim), (setting.type_v, values)):
        size = setting.streams * cells * row_bytes(type_name, row)
        total += round_up(size + row_padding(type_name, row), _ALIGNMENT) if padded else size
    return total


def state_bytes(state: StateCache, setting: Setting) -> int:
    """
    Bytes of one layer's states: slots · (convolution's inputs + state), two tensors in float32.

        (d_conv − 1) · (d_inner + 2 · n_group · d_state)  and  d_state · d_inner

    Source: src/llama-hparams.cpp, n_embd_r and n_embd_s; src/llama-memory-recurrent.cpp.
    """
    return sum(
        round_up(4 * setting.slots * numbers, _ALIGNMENT)
        for numbers in (state.conv_channels * state.conv_tokens, state.state_elements)
    )


def check_rows(architecture: Architecture, setting: Setting) -> None:
    """Refuse cache types whose blocks do not divide a head. Source: src/llama-context.cpp, llama_init_from_model."""
    for cache, _ in architecture.caches:
        for type_name, width in ((setting.type_k, cache.key_dim), (setting.type_v, cache.value_dim)):
            stored = GGML_TYPES[type_name]
            if isinstance(stored, Blocks) and width % stored.elements:
                raise RequestError(
                    f"{type_name} has blocks of {stored.elements} numbers, which heads of {width} do not fill",
                    hint="choose f16 for this model's cache",
                )


Held = tuple[tuple["KvCache | StateCache", bool, int], ...]


def held_on(architecture: Architecture, setting: Setting, device: int) -> Held:
    """What layers keep on a GPU or the host: (cache or state, whether it is an indexer's, how many)."""
    kept: dict[tuple[object, ...], Held] = vars(architecture).setdefault("_llama_cpp_held", {})
    key = (setting.gpus, setting.shares, setting.gpu_layers, setting.kv_on_host, device)
    if key not in kept:
        counts: dict[tuple[KvCache | StateCache, bool], int] = {}
        n_layers = len(architecture.layers)
        for index, layer in enumerate(architecture.layers):
            place = HOST if setting.kv_on_host else device_of(index, n_layers, setting)
            if place != device:
                continue
            mixer = layer.mixer
            for cache, extra in ((mixer.cache, False), (mixer.state, False), (mixer.indexer, True)):
                if cache is not None:
                    if not isinstance(cache, StateCache):
                        cache = as_served(architecture, cache)  # noqa: PLW2901
                        if extra and isinstance(mixer, BlockSparse):  # keys, and values that nothing reads
                            cache = replace(cache, value_dim=mixer.inner.head_dim)  # noqa: PLW2901
                    counts[cache, extra] = counts.get((cache, extra), 0) + 1
        kept[key] = tuple((cache, extra, count) for (cache, extra), count in counts.items())
    return kept[key]


def kv_bytes(architecture: Architecture, setting: Setting, device: int) -> int:
    """Bytes of the caches on a GPU or the host."""
    windowed, padded = honours_window(architecture), device != HOST
    return _bytes_of_none(architecture, setting, device) + sum(
        count
        * cache_bytes(
            cache, setting, value_width(architecture, cache, setting), windowed=windowed, padded=padded
        )
        for cache, _, count in held_on(architecture, setting, device)
        if not isinstance(cache, StateCache)
    )


def _bytes_of_none(architecture: Architecture, setting: Setting, device: int) -> int:
    """
    What layers without attention hold all the same: values as wide as the widest, where flash attention is off.

    Only beside states they are left out of the cache. Source: src/llama-kv-cache.cpp, n_embd_v_gqa_max; Llama-Nemotron.
    """
    if setting.flash or architecture.states:
        return 0
    n_layers = len(architecture.layers)
    count = sum(
        isinstance(layer.mixer, NoMixer)
        and (HOST if setting.kv_on_host else device_of(index, n_layers, setting)) == device
        for index, layer in enumerate(architecture.layers)
    )
    if not count:
        return 0
    widest = max(cache.n_heads * cache.value_dim for cache, _ in architecture.caches)
    size = setting.streams * setting.stream_cells * row_bytes(setting.type_v, widest)
    return count * round_up(size, _ALIGNMENT)


def states_bytes(architecture: Architecture, setting: Setting, device: int) -> int:
    """Bytes of the states on a GPU or the host."""
    return sum(
        count * state_bytes(state, setting)
        for state, _, count in held_on(architecture, setting, device)
        if isinstance(state, StateCache)
    )
