"""
What llama-server keeps in host memory while it serves: a cache of prompts, and checkpoints of what cannot be rolled back.

Both grow with use up to a limit; neither takes memory of a card.
Sources (b11434): common/common.h (cache_ram_mib, n_ctx_checkpoints); tools/server/server-task.cpp, server_prompt_cache;
tools/server/server-context.cpp, create_checkpoint; https://github.com/ggml-org/llama.cpp/pull/16391 and 15293.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.cache import StateCache
from vram_planner.engines.llama_cpp_builds import PROMPT_CACHE, THIS_BUILD, before
from vram_planner.engines.llama_cpp_cache import as_served, honours_window, state_bytes, value_width
from vram_planner.engines.llama_cpp_layout import row_bytes
from vram_planner.errors import RequestError
from vram_planner.units import MIB, format_gib

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.engines.base import Options
    from vram_planner.engines.llama_cpp_layout import Setting

_CACHE_RAM = 8192 * MIB
_CHECKPOINTS = 32
_CELL = 12  # a cell's position, and the one sequence that it belongs to
_TENSOR = 12  # its type and the size of a row


def prompt_cache_bytes(options: Options) -> int:
    """
    The most that the prompt cache holds: --cache-ram, 8,192 MiB unless told otherwise, nothing before October 2025.

    Raises RequestError for builds that have no such option.
    """
    if before(options.version, PROMPT_CACHE):
        if options.cache_ram:
            raise RequestError(
                f"llama.cpp {str(options.version)[:20]} has no --cache-ram",
                hint="leave it out, or a newer build",
            )
        return 0
    return _CACHE_RAM if options.cache_ram is None else options.cache_ram // MIB * MIB


def checkpoints(options: Options) -> int | None:
    """Checkpoints a slot: --ctx-checkpoints, 32 in this release; None where an older build's default is not known."""
    if options.ctx_checkpoints is not None:
        return options.ctx_checkpoints
    return None if before(options.version, THIS_BUILD) else _CHECKPOINTS


def checkpoint_bytes(architecture: Architecture, setting: Setting) -> int:
    """
    Bytes of one checkpoint of one slot; 0 where llama-server makes none.

        Σ windowed layers: min(window, context) · (row of keys + row of values), or Σ recurrent layers: states

    and 12 bytes a cell and tensor. With states the other layers are left out, with --swa-full there are none.
    Source: src/llama-kv-cache-iswa.cpp and llama-memory-hybrid.cpp, state_write with LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY;
    src/llama-kv-cache.cpp, state_write (only cells that the window still sees).
    """
    one = setting.without_slots
    total = 0
    for layer in architecture.layers:
        state = layer.mixer.state
        if isinstance(state, StateCache):
            total += state_bytes(state, one) + 2 * _TENSOR
    if total or setting.swa_full or not honours_window(architecture):
        return total
    widest = 0
    for layer in architecture.layers:
        cache = layer.mixer.cache
        if cache is None or cache.window is None:
            continue
        served = as_served(architecture, cache)
        cells = min(served.window or 0, setting.context)
        values = value_width(architecture, served, setting)
        total += cells * row_bytes(setting.type_k, served.n_heads * served.key_dim) + _TENSOR
        total += cells * row_bytes(setting.type_v, values) + _TENSOR
        widest = max(widest, cells)
    return total + widest * _CELL


def in_words(architecture: Architecture, setting: Setting, options: Options) -> str:
    """What may come to lie in host memory beside tensors, caches and buffers."""
    cached, count = prompt_cache_bytes(options), checkpoints(options)
    each = checkpoint_bytes(architecture, setting)
    found = [f"up to {format_gib(cached)} GiB of prompt cache (--cache-ram)"] if cached else []
    if each and count is None:
        found.append("context checkpoints, whose number that build chooses")
    elif each and count:
        total = count * setting.slots * each
        found.append(f"up to {format_gib(total)} GiB of context checkpoints ({count} a slot)")
    return f"in host memory: {' and '.join([*found, 'all else'])}" if found else "all else in host memory"


def settings(architecture: Architecture, setting: Setting, options: Options) -> dict[str, object]:
    """The limits after defaults, in bytes."""
    count = checkpoints(options)
    each = checkpoint_bytes(architecture, setting)
    return {
        "cache_ram": prompt_cache_bytes(options),
        "ctx_checkpoints": count,
        "host_prompt_cache_bytes": prompt_cache_bytes(options),
        "host_checkpoint_bytes": None if count is None else count * setting.slots * each,
    }
