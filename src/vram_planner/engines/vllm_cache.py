"""vLLM's paged KV cache: pages, groups of layers, blocks a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vram_planner.architecture.parallel import stage_layers
from vram_planner.errors import PrecisionError
from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from vram_planner.architecture.cache import KvCache, StateCache
    from vram_planner.engines.base import Ask

_FP8 = frozenset({"fp8", "fp8_e4m3", "fp8_e5m2"})
_KV_DTYPES: dict[str, int] = {"bfloat16": 2, "float16": 2, **dict.fromkeys(_FP8, 1)}
DEFAULT_BLOCK = 16
_FLOAT32_BYTES = 4
_BLACKWELL = 10
_INDEXER_GROUP = 128
# Sparse MLA's kernels (DeepSeek-V3.2, GLM-5) read pages of 64 tokens.
_SPARSE_BLOCK = 64
# A spread between kinds below this makes vLLM pad the smaller kind instead of splitting the larger one.
_PAD_INSTEAD = 1.5


def element_bytes(kv_dtype: str, model_bytes: int) -> int:
    """Bytes of a cached number; 'auto' follows the model's activations, never its weights."""
    if kv_dtype == "auto":
        return model_bytes
    if kv_dtype not in _KV_DTYPES:
        raise PrecisionError(
            f"vLLM has no KV cache type {kv_dtype!r}", hint=f"one of auto, {', '.join(sorted(_KV_DTYPES))}"
        )
    return _KV_DTYPES[kv_dtype]


def default_block_size(ask: Ask) -> int:
    """
    Tokens a block: 16, unless the attention backend wants more.

    MLA with an fp8 cache runs FlashMLA with 64 (Hopper); every MLA cache runs CUTLASS MLA with 128
    on Blackwell; sparse MLA takes 64. Source: vLLM v1/attention/backends/mla (answers of vLLM 0.32's
    own config path).
    """
    if not any(cache.latent for cache, _ in ask.architecture.caches):
        return DEFAULT_BLOCK
    if ask.architecture.indexers:
        return _SPARSE_BLOCK
    capability = ask.device.compute_capability if ask.device else None
    if capability is not None and capability[0] >= _BLACKWELL:
        return 128
    return 64 if ask.options.kv_dtype in _FP8 else DEFAULT_BLOCK


def page_bytes(cache: KvCache, *, block: int, tp: int, n_bytes: int) -> int:
    """
    Bytes of one block of one layer on one rank: block · H/tp · (d_k + d_v) · b.

    MLA: block · (kv_lora_rank + rope) · b, the same on every rank.
    Source: vLLM AttentionSpec / MLAAttentionSpec.real_page_size_bytes, v1/kv_cache_interface.py.
    """
    return block * cache.elements_per_token(tp) * n_bytes


def state_bytes(state: StateCache, *, tp: int, n_bytes: int) -> int:
    """
    Bytes of one sequence's state of one layer on one rank, before padding.

    (conv channels + copied groups)/tp · (kernel − 1) · b + state/tp · (4 for float32, else b). With fewer
    groups than ranks, or not divisible by them, vLLM has one group a rank.
    Source: vLLM mamba_utils.py, MambaStateShapeCalculator and extra_groups_for_head_shards.
    """
    channels = state.conv_channels
    if state.groups and state.groups % tp:
        channels += (tp - state.groups) * state.group_channels // state.groups
    wide = _FLOAT32_BYTES if state.float32_state else n_bytes
    return ceil_div(channels, tp) * state.conv_tokens * n_bytes + ceil_div(state.state_elements, tp) * wide


class Kind(NamedTuple):
    """How a group of layers fills blocks with the tokens of one request."""

    window: int | None = None
    chunked: bool = False
    block: int = DEFAULT_BLOCK
    state_blocks: int = 0  # more than none: a state, which takes these whatever the length

    def blocks(self, context: int, in_flight_tokens: int) -> int:
        """
        Blocks that one request of `context` tokens can hold at most.

        full attention  ceil(L / block)
        sliding window  ceil(min(window − 1 + in-flight, L) / block) + 1, for the window may start
                        inside a block
        chunks          ceil(min(chunk + in-flight, L) / block)
        state           1; 2 with prefix caching, 3 for Mamba2, which keeps a checkpoint of the prefill too

        Source: vLLM max_memory_usage_bytes of the specs in v1/kv_cache_interface.py.
        """
        if self.state_blocks:
            return self.state_blocks
        if self.window is None:
            return ceil_div(context, self.block)
        if self.chunked:
            return ceil_div(min(self.window + in_flight_tokens, context), self.block)
        return ceil_div(min(self.window - 1 + in_flight_tokens, context), self.block) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """
    How vLLM shares one pool of blocks between kinds of layers.

    `kinds` holds one entry a group. A block of the pool covers one block of tokens (or one state) in every
    layer of one group: `bytes_per_block`. `block` is the size that vLLM's configuration names.
    """

    kinds: tuple[Kind, ...]
    bytes_per_block: int
    block: int

    @property
    def state_blocks(self) -> int:
        """Blocks of a request that hold states."""
        return sum(kind.state_blocks for kind in self.kinds)

    def blocks_per_request(self, context: int, in_flight_tokens: int) -> int:
        """Blocks that a request of `context` tokens can hold at most, over all groups, states included."""
        return sum(kind.blocks(context, in_flight_tokens) for kind in self.kinds)


class _Layers(NamedTuple):
    """Alike layers before grouping."""

    kind: Kind
    page_bytes: int
    n_layers: int


def group_layers(ask: Ask, *, block: int, kv_bytes: int, hybrid: bool, prefix_caching: bool = True) -> Groups:
    """
    Split the layers into groups of one kind and one page size.

    Layers that all need the same number of slots (full attention of any shape, with its indexers) form one
    group. Else pages are made alike first: smaller ones take more tokens a block if that fits, or padding.
    The group size is then the number of layers of the rarest kind (of the most frequent one, if that has
    less than 1.5 times as many); kinds are padded up to it. Without the hybrid allocator (before 0.9),
    sliding layers keep every token like the others. Beside states the block of attention grows until its
    page is not smaller than a state. Under pipeline parallelism a stage holds its share of each group.
    Source: vLLM get_kv_cache_groups, unify_kv_cache_spec_page_size and
    _get_kv_cache_groups_uniform_page_size, v1/core/kv_cache_utils.py; update_block_size_for_backend,
    platforms/interface.py.
    """
    states = [
        (state, count, state_bytes(state, tp=ask.layout.tp, n_bytes=ask.precision.element_bytes))
        for state, count in ask.architecture.states
    ]
    if states and ask.architecture.caches:
        block = _block_beside_states(ask, block, kv_bytes, max(n_bytes for _, _, n_bytes in states))
    layers = _attention_layers(ask, block, kv_bytes, hybrid=hybrid)
    if states:
        page = max((row.page_bytes for row in layers), default=max(n_bytes for _, _, n_bytes in states))
        cached = bool(layers) and prefix_caching
        layers += [
            _Layers(Kind(block=block, state_blocks=_state_blocks(state, prefixes=cached)), page, count)
            for state, count, _ in states
        ]
    return _grouped(layers, block, ask.layout.pp)


def _state_blocks(state: StateCache, *, prefixes: bool) -> int:
    """A model of states alone caches no prefixes, and then a state is one block."""
    if not prefixes:
        return 1
    return 3 if state.kind == "mamba2" else 2


def _block_beside_states(ask: Ask, block: int, kv_bytes: int, state: int) -> int:
    """The smallest block whose page holds a state: block · ceil(state / (block · bytes of a token))."""
    latent = any(cache.latent for cache, _ in ask.architecture.caches)
    step = max(block, 128) if latent else block
    token = max(cache.elements_per_token(ask.layout.tp) * kv_bytes for cache, _ in ask.architecture.caches)
    return max(block, step * ceil_div(state, step * token))


def _attention_layers(ask: Ask, block: int, kv_bytes: int, *, hybrid: bool) -> list[_Layers]:
    found: dict[tuple[Kind, int], int] = {}
    tp = ask.layout.tp
    several = len({(cache.window, cache.chunked) for cache, _ in ask.architecture.caches}) > 1
    for cache, count in ask.architecture.caches:
        if cache.fixed_tokens is not None:
            continue
        window = cache.window if hybrid or not several else None
        kind = Kind(window=window, chunked=cache.chunked and window is not None, block=block)
        row = kind, page_bytes(cache, block=block, tp=tp, n_bytes=kv_bytes)
        found[row] = found.get(row, 0) + count
    for cache, count in ask.architecture.indexers:
        # The indexer's keys are FP8 with a float32 scale for each 128 of them, whatever the cache's type.
        token = cache.elements_per_token() + 4 * ceil_div(cache.elements_per_token(), _INDEXER_GROUP)
        row = Kind(block=block), block * token
        found[row] = found.get(row, 0) + count
    return [_Layers(kind, page, count) for (kind, page), count in found.items()]


def _grouped(layers: list[_Layers], block: int, pp: int) -> Groups:
    if len({row.kind for row in layers}) == 1:
        total = sum(row.page_bytes * max(stage_layers(row.n_layers, pp)) for row in layers)
        return Groups(kinds=(layers[0].kind,), bytes_per_block=total, block=block)
    page = max(row.page_bytes for row in layers)
    counts: dict[Kind, int] = {}
    for row in layers:
        kind = row.kind
        if row.page_bytes != page and page % row.page_bytes == 0 and not kind.state_blocks:
            kind = kind._replace(block=kind.block * (page // row.page_bytes))
        counts[kind] = counts.get(kind, 0) + row.n_layers
    fewest, most = min(counts.values()), max(counts.values())
    size = most if most < _PAD_INSTEAD * fewest else fewest
    kinds = tuple(kind for kind, count in counts.items() for _ in range(ceil_div(count, size)))
    return Groups(kinds=kinds, bytes_per_block=page * max(stage_layers(size, pp)), block=block)
