"""
llama.cpp's graph of several streams side by side: Gemma 3n's AltUp, and Laurel beside its attention.

A layer predicts all streams, runs the first of them through its blocks and corrects the others by what that changed.
Source (b11434): src/models/gemma3n.cpp. The steps follow it line by line; the order is that in which ggml visits them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.engines.llama_cpp_attention import attention
from vram_planner.engines.llama_cpp_layer_inputs import streams_of

if TYPE_CHECKING:
    from vram_planner.architecture.feed_forward import DenseMLP
    from vram_planner.architecture.model import Layer
    from vram_planner.engines.llama_cpp_writer import Writer


def spread(writer: Writer, stream: int) -> int:
    """All streams, made from the first: each as large as that one."""
    hidden, others = writer.architecture.hidden, streams_of(writer.architecture) - 1
    graph, repeated = writer.graph, writer.made(others * writer.architecture.hidden, stream)
    added = graph.tensor(graph.size(repeated), *writer.weight("altup_projections"), repeated)
    added = _as_large(writer, added, _magnitude(writer, stream, hidden), others)
    return writer.made((others + 1) * hidden, stream, added)


def _magnitude(writer: Writer, stream: int, hidden: int) -> int:
    """Of one stream that is needed further on: its square is a new tensor."""
    graph = writer.graph
    return graph.in_place(writer.made(1, writer.made(hidden, stream)))


def _as_large(writer: Writer, added: int, magnitude: int, count: int) -> int:
    """The product is made before the square, which can then be written over what it is made of."""
    graph = writer.graph
    scaled = graph.tensor(graph.size(added), added, magnitude)
    graph.expand(scaled)
    own = graph.in_place(writer.made(count, graph.in_place(added)))
    return graph.in_place(scaled, own)


def streamed(
    writer: Writer, layer: Layer, streams: int, inputs: int, block: DenseMLP, *, cuts_off: bool
) -> int:
    """
    One layer over all streams; `inputs` are those that all layers have for themselves.

    `cuts_off`: only the largest gates pass.
    """
    graph, hidden, count = writer.graph, writer.architecture.hidden, streams_of(writer.architecture)
    predicted = _predicted(writer, streams)
    normed = writer.norm(predicted, "input_layernorm", hidden, view=True)
    attended = attention(writer, layer.mixer, normed)
    attended = writer.norm(attended, "post_attention_layernorm", hidden)
    attended = graph.in_place(attended, predicted)
    beside = writer.norm(_laurel(writer, layer, normed), "laurel.post_laurel_norm", hidden)
    beside = graph.tensor(graph.size(beside), beside, normed, over=(beside, normed))
    middle = graph.in_place(graph.tensor(graph.size(attended), attended, beside, over=(attended, beside)))
    fed = _fed(writer, block, writer.norm(middle, "pre_feedforward_layernorm", hidden), cuts_off=cuts_off)
    fed = writer.norm(fed, "post_feedforward_layernorm", hidden)
    result = graph.tensor(graph.size(fed), fed, middle, over=(fed, middle))
    corrected = _corrected(writer, predicted, result)
    own = next(weight.rows for weight in layer.norms if weight.name == "per_layer_input_gate")
    first = writer.made(hidden, corrected, *writer.weight("altup.correct_output_scale"))
    gate = graph.in_place(writer.product("per_layer_input_gate", own, first))
    first = writer.product("per_layer_projection", hidden, graph.in_place(gate, inputs))
    first = writer.norm(first, "post_per_layer_input_norm", hidden)
    return writer.made(count * hidden, corrected, writer.made((count - 1) * hidden, corrected, first))


def _laurel(writer: Writer, layer: Layer, normed: int) -> int:
    rank = next(weight.rows for weight in layer.norms if weight.name == "laurel.linear_left")
    low = writer.product("laurel.linear_left", rank, normed)
    return writer.product("laurel.linear_right", writer.architecture.hidden, low)


def _modalities(writer: Writer, stream: int, *, view: bool) -> int:
    """How the streams are mixed, a number each."""
    graph, hidden = writer.graph, writer.architecture.hidden
    normed = graph.in_place(writer.norm(stream, "altup.router_norm", hidden, view=view))
    return graph.in_place(writer.product("altup.modality_router", streams_of(writer.architecture), normed))


def _predicted(writer: Writer, streams: int) -> int:
    graph, count = writer.graph, streams_of(writer.architecture)
    turned = graph.tensor(graph.size(streams), streams)
    mixed = writer.product("altup.prediction_coefs", count * count, _modalities(writer, streams, view=True))
    predicted = graph.tensor(graph.size(streams), turned, mixed)
    predicted = graph.tensor(graph.size(streams), predicted)
    return graph.tensor(graph.size(streams), predicted, streams, over=(predicted, streams))


def _corrected(writer: Writer, predicted: int, result: int) -> int:
    graph, count = writer.graph, streams_of(writer.architecture)
    innovation = graph.tensor(graph.size(result), result, predicted, over=(result,))
    repeated = graph.tensor(graph.size(predicted), innovation)
    graph.expand(repeated)
    mixed = writer.product("altup.correction_coefs", count, _modalities(writer, result, view=False))
    each = writer.made(count, graph.in_place(mixed))
    scaled = graph.in_place(repeated, each)
    return graph.tensor(graph.size(predicted), scaled, predicted, over=(scaled, predicted))


def _fed(writer: Writer, block: DenseMLP, normed: int, *, cuts_off: bool) -> int:
    """Up comes before gate; of the gates those below mean and so many deviations are cut off."""
    graph, width = writer.graph, block.intermediate
    up = writer.product("up_proj", width, normed)
    graph.expand(up)
    gate = writer.product("gate_proj", width, normed)
    if cuts_off:
        mean = writer.made(1, gate)
        graph.expand(mean)
        squares = graph.in_place(writer.made(width, gate, mean))
        deviation = graph.in_place(graph.in_place(graph.in_place(writer.made(1, squares))))
        least = graph.tensor(graph.size(mean), mean, deviation, over=(mean, deviation))
        gate = graph.in_place(graph.in_place(gate, least))
    gate = graph.in_place(gate)
    return writer.product("down_proj", block.hidden, graph.tensor(graph.size(up), up, gate, over=(up, gate)))


def folded(writer: Writer, streams: int) -> int:
    """The mean of all streams, each as large as the first."""
    graph, hidden, others = writer.graph, writer.architecture.hidden, streams_of(writer.architecture) - 1
    rest = graph.tensor(writer.row(others * hidden), *writer.weight("altup_unembed_projections"), streams)
    rest = _as_large(writer, rest, _magnitude(writer, streams, hidden), others)
    total = writer.made(hidden, streams, rest)
    for _ in range(others - 1):
        total = graph.in_place(total, rest)
    return graph.in_place(total)
