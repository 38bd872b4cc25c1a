"""
What layers with a state read from the cache and write back.

Sources (b11434): src/llama-graph.cpp (build_rs: a state is gathered for each slot, and written back).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vram_planner.architecture.cache import StateCache
    from vram_planner.engines.llama_cpp_writer import Writer


def gathered(writer: Writer, numbers: int) -> int:
    """One state of each slot, read from the cache; a copy of what the host gathered if the cache is there."""
    n_bytes = 4 * numbers * writer.setting.slots
    if writer.cache_on_host:
        writer.host_inputs["states"] = 4 * writer.setting.slots
        writer.graph.elsewhere()
        return writer.graph.copied(n_bytes)
    states = writer.graph.tensor(n_bytes, states_chosen(writer))
    writer.told(states)  # with the cache, whose first state is cleared just before
    writer.graph.expand(states)
    writer.graph.nothing(writer.input("no other states", 0))
    return states


def gathered_parts(writer: Writer, state: StateCache, parts: int) -> tuple[int, ...]:
    """The kept inputs as several views: of what the host gathered each is copied by itself."""
    slots, numbers = writer.setting.slots, state.conv_channels * state.conv_tokens
    first = gathered(writer, numbers)
    if not writer.cache_on_host:
        return (first,) * parts
    view = 4 * ((slots - 1) * numbers + numbers // parts)
    return tuple(writer.graph.copied(view) for _ in range(parts))


def awaited(writer: Writer) -> None:
    """States are gathered before anything else: the GPU before has then still to end its last layer, which is a split."""
    if writer.stream_to_come:
        writer.stream_to_come = False
        writer.graph.elsewhere()


def no_inputs(writer: Writer) -> None:
    """The kept inputs of a layer that convolves nothing: read and written all the same, without a byte (MiniMax-M1)."""
    if not writer.cache_on_host:
        writer.graph.nothing(states_chosen(writer))
        writer.graph.nothing(writer.input("no other states", 0))


def states_chosen(writer: Writer) -> int:
    """Numbers of the slots' states."""
    return writer.input("states", 4 * writer.setting.slots)


def joined(writer: Writer, state: StateCache, kept: int, fed: int, *, parts: int = 1) -> int:
    """
    Kept inputs and new ones in one tensor, the last of them written back.

    `parts`: only one of so many parts of all channels.
    """
    slots, channels = writer.setting.slots, state.conv_channels // parts
    both = writer.graph.tensor(4 * channels * _width(writer, state) * slots, kept, fed)
    n_bytes = tail_bytes(writer, state, parts=parts)
    if parts > 1:  # the host keeps what it gathered until the last part is read
        n_bytes += 4 * state.conv_channels * state.conv_tokens * slots
    written(writer, n_bytes, both)
    return both


def _width(writer: Writer, state: StateCache) -> int:
    """Tokens of one slot's row: those kept and new ones."""
    return writer.tokens // writer.setting.slots + state.conv_tokens


def tail_bytes(writer: Writer, state: StateCache, *, parts: int = 1) -> int:
    """What is written back is a view of the last inputs of every channel: its copy spans nearly all."""
    rows = state.conv_channels // parts * writer.setting.slots - 1
    return 4 * rows * _width(writer, state) + 4 * state.conv_tokens


def written(writer: Writer, n_bytes: int, *sources: int) -> None:
    """A state or inputs that go back to the cache: `n_bytes` are those of their copy if that is on the host."""
    if writer.cache_on_host:
        writer.cached_on_host = max(writer.cached_on_host, n_bytes)
        writer.graph.elsewhere(*sources)
    else:
        writer.graph.store(*sources)
