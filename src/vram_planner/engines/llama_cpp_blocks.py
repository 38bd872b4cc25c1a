"""
llama.cpp's graph of attention over chosen blocks of tokens (MiniMax-M3).

An indexer scores positions, the best blocks of them become a mask over all cells, and attention runs over all. Without flash
attention, or with one cache for several slots, the indexer stays unused.
Source (b11434): src/models/minimax-m3.cpp; src/llama-kv-cache-msa.cpp (positions at the start: those of no token, padded).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.engines.llama_cpp_attention import grouped, half_precision_copies, projected, turned
from vram_planner.engines.llama_cpp_writer import ONCE
from vram_planner.units import round_up

if TYPE_CHECKING:
    from vram_planner.architecture.cross import BlockSparse
    from vram_planner.engines.llama_cpp_writer import Inputs, Writer

_CELLS = 256


def block_sparse(writer: Writer, mixer: BlockSparse, normed: int) -> int:
    """The block's result."""
    setting, inner, graph = writer.setting, mixer.inner, writer.graph
    if not setting.flash or (setting.unified and setting.slots > 1):
        return grouped(writer, inner, mixer.cache, normed)
    width, kv_width = inner.n_heads * inner.head_dim, inner.n_kv_heads * inner.head_dim
    key = _indexed(writer, mixer, "k", 1, normed)
    graph.expand(key)
    writer.keys_stored(key, "indexer")
    inputs = writer.attention_inputs(mixer.cache, masked=writer.first)
    query = turned(writer, projected(writer, "q", width, normed, inner), inputs.rotate_keys)
    graph.expand(query)
    keys = turned(writer, projected(writer, "k", kv_width, normed, inner), inputs.rotate_keys)
    graph.expand(keys)
    values = turned(writer, projected(writer, "v", kv_width, normed, inner), inputs.rotate_values)
    graph.expand(values)
    writer.stored(inputs, keys, values)
    mixed, chooser = _attended(writer, mixer, inputs, query, (normed, None))
    for _ in range(setting.slots - 1):
        one, _ = _attended(writer, mixer, inputs, query, (normed, chooser))
        mixed = graph.tensor(graph.size(mixed) + graph.size(one), mixed, one)
        graph.expand(mixed)
    return writer.product("o_proj", inner.hidden, turned(writer, mixed, inputs.rotate_values))


def _indexed(writer: Writer, mixer: BlockSparse, letter: str, heads: int, normed: int) -> int:
    """A query or key of the indexer: projected, scaled, turned."""
    width = heads * mixer.index_dim
    scaled = writer.norm(
        writer.product(f"indexer.{letter}_proj", width, normed), f"indexer.{letter}_norm", width, view=True
    )
    return writer.graph.in_place(scaled, writer.positions)


def _attended(
    writer: Writer, mixer: BlockSparse, inputs: Inputs, query: int, chooser: tuple[int, int | None]
) -> tuple[int, int]:
    """
    One slot's result, and the indexer's queries.

    `chooser` are the normed stream, and the indexer's queries if an earlier slot made them.
    """
    graph, setting, inner = writer.graph, writer.setting, mixer.inner
    tokens = writer.tokens // setting.slots
    mask, queries = _mask(writer, mixer, inputs, chooser, tokens)
    size = tokens * inner.n_heads * inner.head_dim * 4
    extra = half_precision_copies(writer, mixer.cache, inner.n_heads, inputs) // setting.slots
    found = graph.tensor(size + extra, query, mask)
    found = graph.tensor(size, found)
    graph.expand(found)
    return found, queries


def _mask(
    writer: Writer, mixer: BlockSparse, inputs: Inputs, chooser: tuple[int, int | None], tokens: int
) -> tuple[int, int]:
    """The mask of one slot for each group of heads: blocks' places widened to cells, under the causal mask."""
    graph, groups, cells = writer.graph, mixer.index_heads, writer.setting.stream_cells
    normed, queries = chooser
    positions = round_up(cells if writer.setting.grown else _CELLS, mixer.block)
    blocks = positions // mixer.block
    few = min(mixer.blocks, blocks)
    index = graph.tensor(mixer.index_dim * positions * 4, _part(writer, "positions' cells", 4 * positions))
    graph.expand(index)
    if queries is None:
        queries = _indexed(writer, mixer, "q", groups, normed)
        graph.expand(queries)
    scores = graph.tensor(positions * groups * tokens * 4, index, queries)
    graph.expand(scores)
    graph.use(scores, _part(writer, "positions seen", 4 * positions * tokens))
    near = _part(writer, "blocks nearby", 4 * blocks * tokens)
    best = graph.in_place(graph.tensor(blocks * groups * tokens * 4, scores), near)
    chosen = graph.tensor(few * groups * tokens * 4, best)
    zeros = graph.in_place(graph.tensor(few * groups * tokens * 4, chosen))
    graph.expand(zeros)
    none = graph.tensor(blocks * tokens * 2, graph.in_place(near))
    marked = graph.tensor(blocks * groups * tokens * 2, none)
    graph.expand(marked)
    graph.use(zeros, chosen, marked)
    turned_twice = graph.tensor(graph.size(marked), graph.tensor(graph.size(marked), marked))
    wide = 4 * cells * groups * tokens
    spread = graph.tensor(wide, turned_twice, _part(writer, "cells' blocks", 4 * cells))
    spread = graph.tensor(wide, spread)
    graph.expand(spread)
    seen = _wide_mask(writer, inputs, 4 * cells * tokens)
    graph.use(spread, seen)
    return graph.tensor(wide // 2, spread, seen), queries


def _wide_mask(writer: Writer, inputs: Inputs, n_bytes: int) -> int:
    """The mask in float32: made once, on the first GPU; the others get a part of `n_bytes` for each layer and slot."""
    if not writer.first:
        return writer.arrival(n_bytes)
    if writer.wide_mask is None:
        writer.wide_mask = writer.graph.tensor(n_bytes * writer.setting.slots, inputs.mask)
    return writer.wide_mask


def _part(writer: Writer, name: str, n_bytes: int) -> int:
    """One slot's part of an input: a view, which is copied for each layer by itself."""
    writer.host_inputs[f"{ONCE}{name}"] = n_bytes * writer.setting.slots
    return writer.arrival(n_bytes)
