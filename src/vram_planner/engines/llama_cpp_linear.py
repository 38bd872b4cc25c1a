"""
llama.cpp's graph of linear attention: Kimi's delta rule and MiniMax' lightning attention.

Sources (b11434): src/models/kimi-linear.cpp, src/models/delta-net-base.cpp (build_delta_net_fused),
src/models/minimax-01.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.engines.llama_cpp_states import (
    gathered,
    gathered_parts,
    joined,
    no_inputs,
    written,
)
from vram_planner.engines.llama_cpp_writer import unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.recurrent import KimiDelta, LightningAttention
    from vram_planner.engines.llama_cpp_writer import Writer

    Norm = Callable[[], int]

_KIMI = "kimi_linear"


def kimi_delta(writer: Writer, mixer: KimiDelta, norm: Norm) -> int:
    """
    Queries, keys and values are convolved apart; each key channel has a decay of its own.

    Raises UnsupportedArchitectureError for other families with that rule (Kimi K3), whose graphs are others.
    """
    if not writer.architecture.model_type.startswith(_KIMI):
        raise unknown(mixer)
    graph, state, heads = writer.graph, mixer.state, mixer.heads
    width = heads * mixer.head_dim
    normed = norm()
    graph.expand(normed)
    kept = gathered_parts(writer, state, 3)
    fed = [
        joined(writer, state, one, writer.product(f"{letter}_proj", width, normed), parts=3)
        for letter, one in zip("qkv", kept, strict=True)
    ]
    convolved = [
        writer.made(width, writer.made(width, both, *writer.weight(f"conv1d_{letter}", view=True)))
        for letter, both in zip("qkv", fed, strict=True)
    ]
    old = gathered(writer, state.state_elements)
    query, key = (graph.in_place(writer.made(width, one)) for one in convolved[:2])
    decay = graph.in_place(_low_rank(writer, mixer, "f", normed), *writer.weight("dt_bias"))
    decay = writer.made(width, graph.in_place(decay), *writer.weight("A_log", view=True))
    correction = writer.made(heads, writer.product("b_proj", heads, normed))
    new_states = 4 * state.state_elements * writer.setting.slots
    ruled = graph.tensor(writer.row(width) + new_states, query, key, convolved[2], decay, correction, old)
    written(writer, new_states, ruled)
    scaled = writer.norm(writer.made(width, ruled), "o_norm", width, view=True)
    gate = writer.made(width, _low_rank(writer, mixer, "g", normed))
    gated = writer.made(width, graph.tensor(graph.size(scaled), scaled, gate, over=(scaled, gate)))
    return writer.product("o_proj", mixer.hidden, gated)


def _low_rank(writer: Writer, mixer: KimiDelta, letter: str, normed: int) -> int:
    rank, width = mixer.gate_rank or 0, mixer.heads * mixer.head_dim
    return writer.product(f"{letter}_b_proj", width, writer.product(f"{letter}_a_proj", rank, normed))


def lightning(writer: Writer, mixer: LightningAttention, norm: Norm) -> tuple[int, int]:
    """
    The block's result and the norm before it.

    Within a micro-batch tokens attend to each other under a mask of decays, n² numbers a head and slot; what came
    before is in the state.
    """
    graph, state, slots = writer.graph, mixer.state, writer.setting.slots
    width, each = mixer.heads * mixer.head_dim, writer.tokens // writer.setting.slots
    square = 4 * each * each * mixer.heads * slots
    new_states = 4 * state.state_elements * slots
    no_inputs(writer)
    if writer.cache_on_host and writer.begins:  # read before the stream leaves the host
        beside = writer.row(mixer.hidden) + new_states
        writer.cached_on_host = max(writer.cached_on_host, beside)
    old = gathered(writer, state.state_elements)
    normed = norm()
    fused = graph.in_place(writer.product("qkv_proj", 3 * width, normed))
    query = writer.made(width, fused, _decay(writer, "decay of queries", writer.row(mixer.heads)))
    before = writer.made(width, old, query)
    values = writer.made(width, fused)
    scores = graph.tensor(square, fused)
    scores = graph.in_place(scores, _decay(writer, "decay between tokens", square))
    within = writer.made(width, values, scores)
    mixed = graph.tensor(graph.size(before), before, within, over=(before, within))
    graph.expand(mixed)
    slopes = graph.in_place(_decay(writer, "slopes", 4 * mixer.heads))
    old = graph.tensor(new_states, old, slopes)
    keys = writer.made(width, fused, _decay(writer, "decay of keys", writer.row(mixer.heads)))
    added = graph.tensor(new_states, writer.made(width, keys), values)
    written(writer, new_states, graph.tensor(new_states, old, added, over=(old, added)))
    gate = graph.in_place(writer.product("output_gate", width, normed))
    scaled = writer.norm(writer.made(width, mixed), "norm", width, view=True)
    gated = graph.tensor(graph.size(gate), gate, scaled, over=(gate, scaled))
    return writer.product("out_proj", mixer.hidden, gated), normed


def _decay(writer: Writer, name: str, n_bytes: int) -> int:
    """An input, scaled for the layer, then its exponential."""
    return writer.graph.in_place(writer.graph.in_place(writer.input(name, n_bytes)))
