"""
llama.cpp's graph of attention and Mamba-2 in one layer (Falcon-H1).

Source (b11434): src/models/falcon-h1.cpp; ggml/src/ggml-backend.cpp (what follows a host's operation is the host's too).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.recurrent import Mamba2
from vram_planner.engines.llama_cpp_alloc import Gaps
from vram_planner.engines.llama_cpp_attention import attend_on_host, attention
from vram_planner.engines.llama_cpp_recurrent import recurrent, scan_inputs
from vram_planner.engines.llama_cpp_states import tail_bytes
from vram_planner.engines.llama_cpp_writer import unknown
from vram_planner.units import round_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.side_by_side import SideBySide
    from vram_planner.engines.llama_cpp_writer import Writer

_HOST_ALIGNMENT = 32


def side_by_side(writer: Writer, mixer: SideBySide, norm: Callable[[], int]) -> int:
    """The sum of both; each reads a norm of its own. Raises UnsupportedArchitectureError for another mixture."""
    inner = mixer.recurrent
    if not isinstance(inner, Mamba2):
        raise unknown(inner)
    found = attention(writer, mixer.attention, norm())
    if writer.attends_on_host:
        writer.cached_on_host = max(writer.cached_on_host, _on_host(writer, mixer, inner))
    kept = recurrent(writer, inner, norm)
    return writer.graph.tensor(writer.graph.size(found), found, kept, over=(found, kept))


def _on_host(writer: Writer, mixer: SideBySide, inner: Mamba2) -> int:
    """
    Bytes that the host needs for one layer whose cache and state it holds.

    It attends over copies of query, key and value, and its result stays until the state is scanned.
    """
    cache = mixer.attention.cache
    if cache is None:
        raise unknown(mixer)
    gaps = Gaps()

    def take(n_bytes: int) -> tuple[int, int]:
        size = round_up(n_bytes, _HOST_ALIGNMENT)
        return gaps.take(size), size

    attend_on_host(writer, gaps, cache, mixer.attention.n_heads)
    state, slots = inner.state, writer.setting.slots
    gathered = take(4 * state.conv_channels * state.conv_tokens * slots)
    gaps.give_back(*gathered)
    gaps.give_back(*take(tail_bytes(writer, state)))
    if "A_log" in writer.copies:
        for n_bytes in scan_inputs(writer, inner):
            take(n_bytes)
        take(writer.row(inner.inner) + 4 * state.state_elements * slots)
    return gaps.highest
