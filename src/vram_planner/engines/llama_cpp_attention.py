"""
llama.cpp's graph of attention.

Sources (b11434): src/llama-graph.cpp (build_attn, build_attn_mha), src/models/*.cpp (projections, MLA, indexer).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.attention import BorrowedKv, FullAttention, Latent, SlidingWindow
from vram_planner.architecture.cross import BlockSparse, ChunkedAttention, UnevenAttention
from vram_planner.architecture.sparse import SparseLatent
from vram_planner.engines.llama_cpp_alloc import Gaps
from vram_planner.engines.llama_cpp_cache import value_width
from vram_planner.engines.llama_cpp_kernels import copies_halves
from vram_planner.engines.llama_cpp_layout import row_bytes
from vram_planner.engines.llama_cpp_writer import Inputs, unknown
from vram_planner.units import round_up

if TYPE_CHECKING:
    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.cache import KvCache
    from vram_planner.architecture.sparse import Indexer
    from vram_planner.engines.llama_cpp_writer import Writer


_HOST_ALIGNMENT = 32
_NORMED_VALUES = ("gemma3n", "gemma4")
# Families that turn queries and keys first and scale them after it.
_TURNED_FIRST = ("hunyuan",)
# Families whose full layers know no positions but scale queries by them.
_SCALED_QUERIES = ("llama4",)


def attention(writer: Writer, mixer: Mixer, normed: int) -> int:
    """The block's result. Raises UnsupportedArchitectureError for a kind that we do not know."""
    if isinstance(mixer, SparseLatent):
        return _sparse(writer, mixer, normed)
    if isinstance(mixer, Latent):
        return _latent(writer, mixer, normed)
    if isinstance(mixer, FullAttention | SlidingWindow | ChunkedAttention | UnevenAttention):
        inner = mixer if isinstance(mixer, FullAttention) else mixer.inner
        if isinstance(inner, FullAttention):
            return grouped(writer, inner, mixer.cache, normed)
    if isinstance(mixer, BlockSparse):
        # Its module uses this one's tools.
        from vram_planner.engines.llama_cpp_blocks import block_sparse  # noqa: PLC0415

        return block_sparse(writer, mixer, normed)
    if isinstance(mixer, BorrowedKv):
        return _borrowed(writer, mixer, normed)
    raise unknown(mixer)


def grouped(writer: Writer, mixer: FullAttention, cache: KvCache, normed: int) -> int:
    """Queries against keys and values of their own or of a group, kept in `cache`."""
    graph, inputs = writer.graph, writer.attention_inputs(cache)
    width, kv_width = mixer.n_heads * mixer.head_dim, mixer.n_kv_heads * mixer.head_dim
    own_values = cache.n_heads * cache.value_dim
    writer.scaled_by_position = both = None
    if cache.window is None and writer.architecture.model_type.startswith(_SCALED_QUERIES):
        writer.scaled_by_position = writer.input("query scale", 4 * writer.tokens)
    if mixer.gated_query:
        both = writer.product("q_proj", 2 * width, normed)
        query = _normed(writer, both, "q", width, mixer)
        key = turned(writer, projected(writer, "k", kv_width, normed, mixer), inputs.rotate_keys)
        value = turned(writer, projected(writer, "v", kv_width, normed, mixer), inputs.rotate_values)
        query = turned(writer, query, inputs.rotate_keys)
    elif mixer.fused_qkv:
        fused = graph.tensor(
            writer.row(width + 2 * kv_width), *writer.weight("qkv_proj", "q_proj", "k_proj", "v_proj"), normed
        )
        fused = writer.biased(fused, "qkv_proj", "q_proj", "k_proj", "v_proj")
        query = _part(writer, fused, width, inputs.rotate_keys)
        key = _part(writer, fused, kv_width, inputs.rotate_keys)
        seen = (writer.setting.flash or writer.cache_on_host) and inputs.rotate_values is None
        value = fused if seen else turned(writer, writer.made(kv_width, fused), inputs.rotate_values)
    else:
        query = turned(writer, projected(writer, "q", width, normed, mixer), inputs.rotate_keys)
        if mixer.values_from_keys:
            value = writer.product("k_proj", kv_width, normed)
            key = _normed(writer, value, "k", kv_width, mixer)
        else:
            key = projected(writer, "k", kv_width, normed, mixer)
            value = projected(writer, "v", own_values, normed, mixer)
        if writer.architecture.model_type.startswith(_NORMED_VALUES):
            value = writer.made(kv_width, value)
        key, value = turned(writer, key, inputs.rotate_keys), turned(writer, value, inputs.rotate_values)
    # One cache for all layers: values come before keys in the graph; with two caches after them.
    graph.expand(query, *((key, value) if writer.windowed else (value, key)))
    widest = value_width(writer.architecture, cache, writer.setting)
    if widest > own_values:  # transposed values are padded to the widest layer's
        graph.expand(query, key, value)
        value = writer.made(widest, value)
    before = 4 * (width + kv_width) if mixer.fused_qkv and inputs.rotate_values is None else 0
    writer.stored(inputs, key, value, before=before)
    mixed = _somewhere(writer, mixer, cache, inputs, query)
    if both is not None:
        gate = graph.in_place(writer.made(width, both))
        mixed = graph.tensor(graph.size(gate), mixed, gate, over=(gate,))
    return writer.product("o_proj", mixer.hidden, mixed)


def _somewhere(writer: Writer, mixer: FullAttention, cache: KvCache, inputs: Inputs, query: int) -> int:
    """The result of attention by the GPU or by the host."""
    size = writer.row(mixer.n_heads * cache.value_dim)
    if writer.attends_on_host:
        gaps = Gaps()
        attend_on_host(writer, gaps, cache, mixer.n_heads)
        writer.cached_on_host = max(writer.cached_on_host, gaps.highest)
        writer.graph.elsewhere(query)
        return writer.arrival(size)
    if writer.setting.host_attends and not mixer.sinks:
        scores = inputs.cells * writer.tokens * mixer.n_heads * 4
        return writer.attended_on_host(query, size, scores=scores)
    mixed = _attended(writer, mixer.n_heads, cache, inputs, query)
    return writer.gathered_on_host(mixed, inputs.mask) if writer.setting.host_attends else mixed


def _part(writer: Writer, fused: int, width: int, rotation: int | None) -> int:
    """Queries or keys out of a fused projection: turned by position, else a view, which a rotation needs copied."""
    if writer.turns:
        return turned(writer, writer.made(width, fused, writer.positions, *writer.rotary_factors), rotation)
    return fused if rotation is None else turned(writer, writer.made(width, fused), rotation)


def attend_on_host(writer: Writer, gaps: Gaps, cache: KvCache, heads: int) -> None:
    """What the host takes to attend over copies of key, value and query; the result stays."""

    def take(n_bytes: int) -> tuple[int, int]:
        size = round_up(n_bytes, _HOST_ALIGNMENT)
        return gaps.take(size), size

    sizes = (cache.n_heads * cache.key_dim, cache.n_heads * cache.value_dim, heads * cache.key_dim)
    key, value, query = (take(writer.row(numbers)) for numbers in sizes)
    gaps.give_back(*key)
    gaps.give_back(*value)
    if not writer.setting.flash:
        scores = take(writer.setting.stream_cells * writer.tokens * heads * 4)
        gaps.give_back(*query)
        query = take(writer.row(heads * cache.value_dim))
        gaps.give_back(*scores)
    take(writer.row(heads * cache.value_dim))
    gaps.give_back(*query)


def projected(writer: Writer, letter: str, width: int, normed: int, mixer: FullAttention) -> int:
    """
    A projection; its bias is written over it, its norm and rotary embedding over a second tensor.

    What follows the reshape into heads reads a view, and the allocator never reuses what is behind a view.
    """
    tensor = writer.product(f"{letter}_proj", width, normed)
    return tensor if letter == "v" else _normed(writer, tensor, letter, width, mixer)


def _normed(writer: Writer, tensor: int, letter: str, width: int, mixer: FullAttention) -> int:
    graph, by_head = writer.graph, mixer.qk_norm is not None and mixer.qk_norm[0] <= mixer.head_dim
    if by_head and writer.turns and writer.architecture.model_type.startswith(_TURNED_FIRST):
        turned = writer.made(width, tensor, writer.positions, *writer.rotary_factors)
        return writer.norm(turned, f"{letter}_norm", width)
    if mixer.qk_norm is not None:
        tensor = writer.norm(tensor, f"{letter}_norm", width, view=by_head)
    if not writer.turns:
        return tensor
    if writer.scaled_by_position is not None:
        return writer.made(width, tensor, writer.scaled_by_position) if letter == "q" else tensor
    if by_head:
        return graph.in_place(tensor, writer.positions, *writer.rotary_factors)
    return writer.made(width, tensor, writer.positions, *writer.rotary_factors)


def turned(writer: Writer, tensor: int, rotation: int | None, size: int | None = None) -> int:
    """Keys, queries, values or the result times a Hadamard matrix, for a quantised cache."""
    if rotation is None:
        return tensor
    return writer.graph.tensor(writer.graph.size(tensor) if size is None else size, rotation, tensor)


def _attended(writer: Writer, heads: int, cache: KvCache, inputs: Inputs, query: int) -> int:
    graph, size = writer.graph, writer.row(heads * cache.value_dim)
    copies = writer.cached(cache, inputs.cells)
    if writer.setting.flash:
        extra = half_precision_copies(writer, cache, heads, inputs)
        sinks = writer.copies.get("sinks", 0)
        small = (graph.copied(sinks),) if sinks else ()
        mixed = graph.tensor(size + extra, query, *copies, inputs.mask, *small)
    else:
        scores = graph.tensor(inputs.cells * writer.tokens * heads * 4, *copies[:1], query)
        scores = graph.in_place(scores, inputs.mask, *writer.weight("sinks"))
        mixed = graph.tensor(size, graph.tensor(size, *copies[1:], scores))
    graph.expand(mixed)
    # Turned back only where the output's projection stands: after the feed-forward block if that is written first.
    return turned(writer, mixed, inputs.rotate_values, size)


def half_precision_copies(writer: Writer, cache: KvCache, heads: int, inputs: Inputs) -> int:
    """
    Flash attention's copies of a cache that is not f16: the kernels for many tokens read halves.

    Source (b11434): ggml/src/ggml-cuda/fattn.cu, ggml_cuda_flash_attn_ext_get_alloc_size.
    """
    setting = writer.setting
    widths = [cache.key_dim] if setting.type_k != "f16" else []
    if setting.type_v != "f16" and not cache.latent:
        widths.append(cache.value_dim)
    if not widths or not copies_halves(setting, cache, heads, inputs.cells, writer.tokens // setting.streams):
        return 0
    cells = inputs.cells * setting.streams * cache.n_heads
    return sum(cells * width * 2 for width in widths)


def _latent(writer: Writer, mixer: Latent, normed: int) -> int:
    graph, inputs = writer.graph, writer.attention_inputs(mixer.cache)
    query, _ = _latent_query(writer, mixer, normed)
    key = _latent_key(writer, mixer, normed)
    graph.expand(query, key)
    writer.stored(inputs, key, None)
    return _latent_attended(writer, mixer, inputs, query)


def _latent_query(writer: Writer, mixer: Latent, normed: int) -> tuple[int, int | None]:
    """The query against the latent, and the low-rank query if there is one."""
    graph, heads, low = writer.graph, mixer.n_heads, None
    width = heads * (mixer.nope_dim + mixer.rope_dim)
    if mixer.q_rank is None:
        query = writer.product("q_proj", width, normed)
    else:
        low = writer.norm(writer.product("q_a_proj", mixer.q_rank, normed), "q_a_layernorm", mixer.q_rank)
        query = writer.product("q_b_proj", width, low)
    absorbed = writer.product("k_b_proj", heads * mixer.kv_rank, query)
    rotary = writer.made(heads * mixer.rope_dim, query, writer.positions) if writer.turns else query
    return graph.tensor(writer.row(heads * (mixer.kv_rank + mixer.rope_dim)), absorbed, rotary), low


def _latent_key(writer: Writer, mixer: Latent, normed: int) -> int:
    both = writer.product("kv_a_proj_with_mqa", mixer.kv_rank + mixer.rope_dim, normed)
    latent = writer.norm(both, "kv_a_layernorm", mixer.kv_rank, view=True)
    rotary = writer.made(mixer.rope_dim, both, writer.positions) if writer.turns else both
    return writer.made(mixer.kv_rank + mixer.rope_dim, latent, rotary)


def _latent_attended(writer: Writer, mixer: Latent, inputs: Inputs, query: int) -> int:
    cache = mixer.cache
    graph, heads, setting = writer.graph, mixer.n_heads, writer.setting
    wide, narrow = heads * mixer.kv_rank, heads * mixer.value_dim
    copies = writer.cached(cache, inputs.cells)
    if copies:  # the values are a part of the keys, and copied once more
        tail = row_bytes(setting.type_k, mixer.rope_dim)
        copies += (graph.copied(graph.size(copies[0]) - tail),)
    if setting.flash:
        extra = half_precision_copies(writer, cache, heads, inputs)
        if copies and setting.type_k != "f16":  # the values' copy is no view of the keys' any more
            extra += inputs.cells * setting.streams * mixer.kv_rank * 2
        mixed = graph.tensor(writer.row(wide) + extra, query, *copies, inputs.mask)
    else:
        turned = graph.tensor(inputs.cells * setting.streams * mixer.kv_rank * 2, *copies[1:])
        scores = graph.tensor(inputs.cells * writer.tokens * heads * 4, *copies[:1], query)
        mixed = writer.made(wide, turned, graph.in_place(scores, inputs.mask))
    mixed = writer.product("v_b_proj", narrow, mixed)
    if setting.host_attends:
        return writer.product("o_proj", mixer.hidden, writer.gathered_on_host(mixed, inputs.mask))
    mixed = writer.made(narrow, mixed)
    return writer.product("o_proj", mixer.hidden, mixed)


def _sparse(writer: Writer, mixer: SparseLatent, normed: int) -> int:
    """
    An indexer scores all cells, the best stay in a copy of the mask, attention runs over all.

    A layer without an indexer takes the choice of the last one that has one (GLM-5.2).
    Source: src/models/glm-dsa.cpp; src/llama-graph.cpp, build_attn for llm_graph_input_attn_k_dsa.
    """
    graph, inner, chooser = writer.graph, mixer.inner, mixer.chooser
    cells = writer.setting.stream_cells
    top = min(mixer.top_k, cells)
    if chooser is not None:
        _index_key(writer, chooser, normed)
    query, low = _latent_query(writer, inner, normed)
    key = _latent_key(writer, inner, normed)
    graph.expand(query, key)
    writer.keys_stored(key, "all")
    size = cells * writer.tokens * (2 if writer.setting.flash else 4)
    index_mask = writer.input("indexer mask", 2 * cells * writer.tokens) if chooser is not None else None
    mask = writer.input("all mask", size)
    zeros = graph.in_place(graph.leaf(writer.row(top)))
    graph.expand(zeros)
    if chooser is not None and index_mask is not None:
        writer.chosen = _best(writer, chooser, index_mask, normed if low is None else low, (normed, top))
    elif writer.chosen is None:  # another GPU's layer chose
        writer.chosen = writer.arrival(writer.row(top))
    graph.expand(writer.chosen)
    blank = graph.tensor(size, mask)
    graph.expand(blank)
    graph.use(zeros, writer.chosen, blank)
    chosen = graph.tensor(size, blank, mask, over=(mask,))
    inputs = Inputs(chosen, None, None, cells, None, None)
    return _latent_attended(writer, inner, inputs, query)


def _indexer_turn(writer: Writer, chooser: Indexer) -> int:
    return writer.input("indexer keys turned", chooser.head_dim * chooser.head_dim * 4)


def _index_key(writer: Writer, chooser: Indexer, normed: int) -> None:
    """The indexer's key of every token goes to its cache."""
    graph, width, turn = writer.graph, chooser.head_dim, _indexer_turn(writer, chooser)
    key = writer.made(width, writer.product("indexer.wk", width, normed))
    key = graph.in_place(key, *writer.weight("indexer.k_norm"))
    key = graph.in_place(key, *writer.weight("indexer.k_norm.bias"))
    key = writer.made(width, turn, writer.made(width, key, writer.positions))
    writer.keys_stored(key, "indexer")


def _best(writer: Writer, chooser: Indexer, mask: int, low: int, rest: tuple[int, int]) -> int:
    """The numbers of the best cells; `rest` is the normed stream, and how many cells are chosen."""
    graph, heads, width = writer.graph, chooser.n_heads, chooser.head_dim
    normed, top = rest
    cells = writer.setting.stream_cells
    query = writer.product("indexer.wq_b", heads * width, low)
    query = writer.made(heads * width, query, writer.positions)
    query = writer.made(heads * width, _indexer_turn(writer, chooser), query)
    weights = writer.made(heads, writer.product("indexer.weights_proj", heads, normed))
    copies = writer.cached(chooser.cache, cells)
    scores = graph.tensor(cells * writer.tokens * 4, query, *copies, weights, mask)
    return writer.made(top, writer.made(top, scores))


def _borrowed(writer: Writer, mixer: BorrowedKv, normed: int) -> int:
    """Queries of its own against the cache of an earlier layer."""
    inner = mixer.inner
    inputs = writer.attention_inputs(replace(inner.cache, window=mixer.window))
    query = turned(
        writer, projected(writer, "q", inner.n_heads * inner.head_dim, normed, inner), inputs.rotate_keys
    )
    writer.graph.expand(query)
    return writer.product(
        "o_proj", inner.hidden, _attended(writer, inner.n_heads, inner.cache, inputs, query)
    )
