"""vLLM's paged KV cache: pages, groups of layers, blocks a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vram_planner.architecture.attention import Latent
from vram_planner.architecture.cache import KvCache
from vram_planner.engines.vllm_compressed import (
    COMPRESSED_BLOCK,
    check_compressed,
    compressed,
    compressed_groups,
)
from vram_planner.engines.vllm_groups import DEFAULT_BLOCK, Groups, Kind
from vram_planner.engines.vllm_rules import caches_prefixes
from vram_planner.engines.vllm_stages import stage_asks
from vram_planner.errors import PrecisionError
from vram_planner.units import ceil_div, round_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vram_planner.architecture.cache import StateCache
    from vram_planner.engines.base import Ask
    from vram_planner.engines.versions import Profile

_FP8 = frozenset({"fp8", "fp8_e4m3", "fp8_e5m2"})
_KV_DTYPES: dict[str, int] = {"bfloat16": 2, "float16": 2, **dict.fromkeys(_FP8, 1)}
_FLOAT32_BYTES = 4
_HOPPER, _BLACKWELL = 9, 10
_FLASHMLA_BLOCK, _CUTLASS_BLOCK = 64, 128
_PADDED_HEAD = 256
_LATENT_FORMATS = ("bfloat16", "float16", "float32", "fp8")
_INDEXER_GROUP = 128
# Sparse MLA's kernels (DeepSeek-V3.2, GLM-5) read pages of 64 tokens.
_SPARSE_BLOCK = 64
_PACKED_BYTES = 656
# Models of latent attention that vLLM runs as plain attention.
_WITHOUT_MLA = frozenset({"minicpm3"})


def element_bytes(kv_dtype: str, model_bytes: int) -> int:
    """Bytes of a cached number; 'auto' follows the model's activations, never its weights."""
    if kv_dtype == "auto":
        return model_bytes
    if kv_dtype not in _KV_DTYPES:
        raise PrecisionError(
            f"vLLM has no KV cache type {kv_dtype!r}", hint=f"one of auto, {', '.join(sorted(_KV_DTYPES))}"
        )
    return _KV_DTYPES[kv_dtype]


def kv_dtype_of(ask: Ask, followed: Sequence[str]) -> str:
    """
    The cache's type as asked; 'auto' is the checkpoint's own, where it names one and the version follows its format.

    Source: vLLM 0.14 utils/torch_utils.py, resolve_kv_cache_dtype_string (ModelOpt); 0.16
    layers/attention/attention.py, kv_cache_scheme (compressed-tensors).
    """
    asked, stored = ask.options.kv_dtype, ask.architecture
    format_ = stored.kv_dtype_by or (followed[-1] if followed else "")
    if (
        asked == "auto"
        and format_ in followed
        and stored.kv_dtype
        and ask.precision.name == stored.precision.name
    ):
        asked = stored.kv_dtype
    if compressed(ask):
        check_compressed(ask, asked)
    return asked


def held_caches(ask: Ask, latent: str | None = None) -> tuple[tuple[KvCache, int], ...]:
    """
    What vLLM keeps of each layer: as the model has it, but whole heads where its module runs without MLA.

    MiniCPM3: n_heads keys of nope + rope elements, values padded to as many. Source: model_executor/models/minicpm3.py.
    Before 0.7.1 the same of all latent attention, each head padded to 256; in 0.7.1 and 0.7.2 of models in
    another format than 16 bits or FP8, not padded. Source: config.py, get_head_size and use_mla; deepseek_v2.py.
    """
    padded = latent == "padded heads"
    whole = padded or ask.architecture.model_type in _WITHOUT_MLA
    whole |= latent == "unless quantised" and not ask.precision.name.startswith(_LATENT_FORMATS)
    if not whole:
        return ask.architecture.caches
    counts: dict[KvCache, int] = {}
    for layer, count in ask.architecture.groups:
        mixer = layer.mixer
        cache = mixer.cache
        if isinstance(mixer, Latent):
            width = _PADDED_HEAD if padded else mixer.nope_dim + mixer.rope_dim
            cache = KvCache(n_heads=mixer.n_heads, key_dim=width, value_dim=width)
        if cache is not None:
            counts[cache] = counts.get(cache, 0) + count
    return tuple(counts.items())


def default_block_size(ask: Ask, kv_dtype: str, rules: Profile) -> int:
    """
    Tokens a block: 16, unless the attention backend wants more.

    Latent attention on Hopper takes FlashMLA's 64 up to 0.17, from 0.18 on with an fp8 cache alone; on Blackwell
    CUTLASS MLA's 128 from 0.10.1 on, FlashInfer's 64 in 0.16 and 0.17; sparse MLA takes 64.
    Source: platforms/cuda.py, check_and_update_config; from 0.18 on v1/attention/backends/mla (answers of
    vLLM 0.32's own config path).
    """
    caches = held_caches(ask, rules.get("latent"))
    if not any(cache.latent for cache, _ in caches):
        return DEFAULT_BLOCK
    if compressed(ask):
        return COMPRESSED_BLOCK
    if ask.architecture.indexers:
        return _SPARSE_BLOCK
    capability = ask.device.compute_capability if ask.device else None
    if capability is not None and capability[0] == _BLACKWELL:
        return int(rules["latent_block_blackwell"] or _CUTLASS_BLOCK)
    fp8 = _FLASHMLA_BLOCK if kv_dtype in _FP8 else DEFAULT_BLOCK
    if capability is not None and capability[0] == _HOPPER:
        return int(rules["latent_block_hopper"] or fp8)
    return fp8


def _packed_latents(ask: Ask) -> bool:
    """
    Whether an FP8 cache of sparse MLA has FlashMLA's packed entries: on Hopper; Blackwell's FlashInfer has plain ones.

    Source: vLLM layers/attention/mla_attention.py, fp8_ds_mla: 512 B, 4 float32 scales, 64 · 2 B of the rotated key.
    """
    capability = ask.device.compute_capability if ask.device else None
    return bool(ask.architecture.indexers) and (capability is None or capability[0] < _BLACKWELL)


def page_bytes(cache: KvCache, *, block: int, tp: int, n_bytes: int) -> int:
    """
    Bytes of one block of one layer on one rank: block · H/tp · (d_k + d_v) · b.

    MLA: block · (kv_lora_rank + rope) · b, the same on every rank.
    Source: vLLM AttentionSpec / MLAAttentionSpec.real_page_size_bytes, v1/kv_cache_interface.py.
    """
    return block * cache.elements_per_token(tp) * n_bytes


def state_bytes(state: StateCache, *, tp: int, n_bytes: int, drafted: int = 0) -> int:
    """
    Bytes of one sequence's state of one layer on one rank, before padding.

    (conv channels + copied groups)/tp · (kernel − 1 + drafted tokens) · b + state/tp · (4 for float32, else b). With fewer
    groups than ranks, or not divisible by them, vLLM has one group a rank.
    Source: vLLM mamba_utils.py, MambaStateShapeCalculator and extra_groups_for_head_shards.
    """
    channels = state.conv_channels
    if state.groups and state.groups % tp:
        channels += (tp - state.groups) * state.group_channels // state.groups
    wide = _FLOAT32_BYTES if state.float32_state else n_bytes
    tokens = state.conv_tokens + drafted if state.conv_tokens else 0
    return ceil_div(channels, tp) * tokens * n_bytes + ceil_div(state.state_elements, tp) * wide


class _Layers(NamedTuple):
    """Alike layers before grouping."""

    kind: Kind
    page_bytes: int
    n_layers: int


def group_layers(ask: Ask, *, block: int, kv_bytes: int, rules: Profile) -> Groups:
    """
    Split the layers into groups of one kind and one page size.

    Layers that all need the same number of slots (full attention of any shape, with its indexers) form one
    group. Else pages are made alike first: smaller ones take more tokens a block if that fits, or padding.
    The group size is then the number of layers of the rarest kind; of the most frequent one, if that has less than
    1.25 times as many (0.12 to 0.17; 1.5 times from 0.18 on). Kinds are padded up to it. Without the hybrid allocator
    (before 0.9.1), sliding layers keep every token like the others. Beside states the block of attention grows until its
    page is not smaller than a state. Under pipeline parallelism a stage holds its share of each group.
    Source: vLLM get_kv_cache_groups, unify_kv_cache_spec_page_size and
    _get_kv_cache_groups_uniform_page_size, v1/core/kv_cache_utils.py; update_block_size_for_backend,
    platforms/interface.py.
    """
    if compressed(ask):
        return compressed_groups(ask)
    drafted = ask.options.speculative_tokens or 0
    states = [
        (
            state,
            count,
            state_bytes(state, tp=ask.layout.tp, n_bytes=ask.precision.element_bytes, drafted=drafted),
        )
        for state, count in ask.architecture.states
    ]
    if states and ask.architecture.caches:
        block = _block_beside_states(ask, block, kv_bytes, max(n_bytes for _, _, n_bytes in states))
    layers = _attention_layers(ask, block, kv_bytes, rules)
    page = max((row.page_bytes for row in layers), default=0)
    cached = bool(states and layers) and caches_prefixes(ask, rules)
    if states:
        page = page or max(n_bytes for _, _, n_bytes in states)

    def rows(part: Ask) -> list[_Layers]:
        return _attention_layers(part, block, kv_bytes, rules) + [
            _Layers(
                Kind(block=block, state_blocks=(_state_blocks(state, rules) if cached else 1) + drafted),
                page,
                count,
            )
            for state, count in part.architecture.states
        ]

    return _grouped(rows(ask), block, [rows(part) for part in stage_asks(ask)], rules.get("pad_instead", 0))


def _state_blocks(state: StateCache, rules: Profile) -> int:
    """
    Blocks of a state whose prefixes are cached: two, and Mamba2's checkpoint of the prefill from 0.32 on.

    Without prefix caching a state is one block (all models before 0.26, those of states alone ever since); each
    drafted token takes one more. Source: vLLM MambaSpec.max_memory_usage_bytes, num_speculative_blocks.
    """
    return 2 + (int(rules["mamba2_checkpoint"]) if state.kind == "mamba2" else 0)


def _block_beside_states(ask: Ask, block: int, kv_bytes: int, state: int) -> int:
    """The smallest block whose page holds a state: block · ceil(state / (block · bytes of a token))."""
    latent = any(cache.latent for cache, _ in held_caches(ask))
    step = max(block, 128) if latent else block
    token = max(cache.elements_per_token(ask.layout.tp) * kv_bytes for cache, _ in held_caches(ask))
    return max(block, step * ceil_div(state, step * token))


def _attention_layers(ask: Ask, block: int, kv_bytes: int, rules: Profile) -> list[_Layers]:
    found: dict[tuple[Kind, int], int] = {}
    tp = ask.layout.tp
    caches = held_caches(ask, rules.get("latent"))
    several = len({(cache.window, cache.chunked) for cache, _ in caches}) > 1
    for cache, count in caches:
        if cache.fixed_tokens is not None:
            continue
        window = cache.window if rules.get("hybrid_allocator") or not several else None
        kind = Kind(window=window, chunked=cache.chunked and window is not None, block=block)
        page = page_bytes(cache, block=block, tp=tp, n_bytes=kv_bytes)
        if cache.latent:
            page = _latent_page(ask, page, block, kv_bytes, rules)
        row = kind, page
        found[row] = found.get(row, 0) + count
    for cache, count in ask.architecture.indexers:
        # The indexer's keys are FP8 with a float32 scale for each 128 of them, whatever the cache's type.
        token = cache.elements_per_token() + 4 * ceil_div(cache.elements_per_token(), _INDEXER_GROUP)
        row = Kind(block=block), block * token
        found[row] = found.get(row, 0) + count
    return [_Layers(kind, page, count) for (kind, page), count in found.items()]


def _latent_page(ask: Ask, page: int, block: int, kv_bytes: int, rules: Profile) -> int:
    """
    A page of latents: of sparse MLA packed where its cache is FP8, in 0.7.2 and 0.7.3 with entries of whole 256 bytes.

    Source: vLLM 0.7.2 worker/cache_engine.py, align_to_256bytes, which counts in the model's own type.
    """
    if kv_bytes == 1 and _packed_latents(ask):
        return block * _PACKED_BYTES
    element = ask.precision.element_bytes
    return (
        round_up(page // (block * kv_bytes) * element, int(rules.get("latent_alignment", 1)))
        // element
        * kv_bytes
        * block
    )


def _grouped(layers: list[_Layers], block: int, stages: list[list[_Layers]], pad_instead: float) -> Groups:
    if len({row.kind for row in layers}) == 1:
        on_stages = tuple(sum(row.page_bytes * row.n_layers for row in rows) for rows in stages)
        return Groups(
            kinds=(layers[0].kind,), bytes_per_block=max(on_stages), block=block, stage_bytes=on_stages
        )
    page = max(row.page_bytes for row in layers)
    counts = _by_kind(layers, page)
    fewest, most = min(counts.values()), max(counts.values())
    size = most if most < pad_instead * fewest else fewest
    groups = {kind: ceil_div(count, size) for kind, count in counts.items()}
    kinds = tuple(kind for kind, count in groups.items() for _ in range(count))
    # The groups of a kind take its layers in turn, so a stage's are spread over them evenly.
    on_stages = tuple(
        page * max(ceil_div(count, groups[kind]) for kind, count in _by_kind(rows, page).items())
        for rows in stages
    )
    return Groups(kinds=kinds, bytes_per_block=max(on_stages), block=block, stage_bytes=on_stages)


def _by_kind(layers: list[_Layers], page: int) -> dict[Kind, int]:
    """Layers of each kind once all pages are alike: smaller pages take more tokens where that fits."""
    counts: dict[Kind, int] = {}
    for row in layers:
        kind = row.kind
        if row.page_bytes != page and page % row.page_bytes == 0 and not kind.state_blocks:
            kind = kind._replace(block=kind.block * (page // row.page_bytes))
        counts[kind] = counts.get(kind, 0) + row.n_layers
    return counts
