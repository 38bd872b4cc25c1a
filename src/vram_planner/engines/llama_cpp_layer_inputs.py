"""
llama.cpp's graph of embeddings that each layer gets for itself (Gemma 4 E2B and E4B).

Source (b11434): src/models/gemma4.cpp, build_inp_per_layer and project_per_layer_inputs; src/llama-arch.cpp (the table
stays on the host, the projection is loaded with the first layer).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.errors import UnsupportedArchitectureError

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.engines.llama_cpp_writer import Writer

TABLE = "embed_tokens_per_layer"
_PROJECTION = "per_layer_model_projection"
_WITH_FIRST_LAYER = (_PROJECTION, "per_layer_projection_norm", "word_embeddings_layernorm")
_STREAMS = "altup"
_MADE = "altup_projections."


def with_first_layer(architecture: Architecture) -> tuple[Weight, ...]:
    """Tensors beside the embedding that go where the first layer goes."""
    return tuple(
        weight for weight in architecture.embedding_extras if weight.name.startswith(_WITH_FIRST_LAYER)
    )


def with_output(architecture: Architecture) -> tuple[Weight, ...]:
    """Tensors beside the embedding that go where the output goes: what makes and folds Gemma 3n's streams."""
    return tuple(weight for weight in architecture.embedding_extras if weight.name.startswith(_STREAMS))


def streams_of(architecture: Architecture) -> int:
    """How many streams run side by side: 1, or Gemma 3n's 4."""
    return 1 + sum(weight.name.startswith(_MADE) for weight in architecture.embedding_extras)


def inputs_width(architecture: Architecture) -> int:
    """Numbers a token of the inputs of all layers, 0 without such inputs."""
    return next((weight.columns for weight in architecture.embedding_extras if weight.name == TABLE), 0)


def check_inputs(architecture: Architecture, gpus: int) -> None:
    """Refuse the graphs that we do not know. Raises UnsupportedArchitectureError."""
    if gpus > 1 and inputs_width(architecture):
        raise UnsupportedArchitectureError(
            "llama.cpp's copies of the layers' own inputs between GPUs (Gemma 3n, Gemma 4 E2B, E4B) are not modelled",
            hint="plan one GPU: these models are small",
        )


def prepared(writer: Writer, stream: int) -> int | None:
    """The inputs of all layers: looked up on the host, added to a projection of the stream, sorted by layers."""
    width = inputs_width(writer.architecture)
    if not width:
        return None
    graph = writer.graph
    writer.host_inputs["tokens of the layers' table"] = 4 * writer.tokens
    writer.host_inputs["layers' inputs"] = writer.row(width)
    looked_up = graph.in_place(writer.arrival(writer.row(width)))
    graph.expand(looked_up)
    projected = graph.in_place(writer.product(_PROJECTION, width, stream))
    scaled = writer.norm(projected, "per_layer_projection_norm", width, view=True)
    both = graph.in_place(graph.tensor(graph.size(scaled), scaled, looked_up, over=(scaled, looked_up)))
    return writer.made(width, both)


def joined(writer: Writer, result: int, inputs: int, width: int) -> int:
    """A layer's result, and beside it what its own inputs make of it; `width` are the numbers of one layer's inputs."""
    graph = writer.graph
    gate = graph.in_place(writer.product("per_layer_input_gate", width, result))
    gated = graph.in_place(gate, inputs)
    hidden = writer.architecture.hidden
    found = writer.norm(
        writer.product("per_layer_projection", hidden, gated), "post_per_layer_input_norm", hidden
    )
    return graph.tensor(graph.size(result), result, found, over=(result, found))
