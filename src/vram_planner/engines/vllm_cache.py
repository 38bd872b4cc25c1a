"""vLLM's paged KV cache: pages, groups of layers, blocks a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vram_planner.architecture.parallel import stage_layers
from vram_planner.errors import PrecisionError
from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from vram_planner.architecture.cache import KvCache
    from vram_planner.engines.base import Ask

_FP8 = frozenset({"fp8", "fp8_e4m3", "fp8_e5m2"})
_KV_DTYPES: dict[str, int] = {"bfloat16": 2, "float16": 2, **dict.fromkeys(_FP8, 1)}
DEFAULT_BLOCK = 16
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
    on Blackwell. Source: vLLM v1/attention/backends/mla (answers of vLLM 0.32's own config path).
    """
    if not any(cache.latent for cache, _ in ask.architecture.caches):
        return DEFAULT_BLOCK
    capability = ask.device.compute_capability if ask.device else None
    if capability is not None and capability[0] >= 10:  # noqa: PLR2004  Blackwell
        return 128
    return 64 if ask.options.kv_dtype in _FP8 else DEFAULT_BLOCK


def page_bytes(cache: KvCache, *, block: int, tp: int, n_bytes: int) -> int:
    """
    Bytes of one block of one layer on one rank: block · H/tp · (d_k + d_v) · b.

    MLA: block · (kv_lora_rank + rope) · b, the same on every rank.
    Source: vLLM AttentionSpec / MLAAttentionSpec.real_page_size_bytes, v1/kv_cache_interface.py.
    """
    return block * cache.elements_per_token(tp) * n_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """
    How vLLM shares one pool of blocks between kinds of layers.

    `windows` holds one entry a group: None for full attention, else the window. A block of the pool
    covers one block of tokens in every layer of one group: `bytes_per_block`.
    """

    windows: tuple[int | None, ...]
    bytes_per_block: int
    block: int

    def blocks_per_request(self, context: int, in_flight_tokens: int) -> int:
        """
        Blocks that a request of `context` tokens can hold at most, over all groups.

        full attention  ceil(L / block)
        sliding window  ceil(min(window − 1 + in-flight, L) / block) + 1, for the window may start
                        inside a block

        Source: vLLM FullAttentionSpec / SlidingWindowSpec.max_memory_usage_bytes, v1/kv_cache_interface.py.
        """
        total = 0
        for window in self.windows:
            if window is None:
                total += ceil_div(context, self.block)
            else:
                total += ceil_div(min(window - 1 + in_flight_tokens, context), self.block) + 1
        return total


def group_layers(
    caches: tuple[tuple[KvCache, int], ...],
    *,
    page: dict[KvCache, int],
    block: int,
    hybrid: bool,
    pp: int = 1,
) -> Groups:
    """
    Split the layers into groups of one kind and one size.

    The group size is the number of layers of the rarest kind (of the most frequent one, if that has less
    than 1.5 times as many); kinds are padded up to it. Without the hybrid allocator (before 0.9), sliding
    layers keep every token like the others. Under pipeline parallelism a stage holds its share of each group.
    Source: vLLM _get_kv_cache_groups_uniform_page_size, v1/core/kv_cache_utils.py.
    """
    per_window: dict[int | None, int] = {}
    for cache, count in caches:
        # Kinds of one window but of unlike heads are not told apart: no model of these families has them.
        per_window[cache.window] = per_window.get(cache.window, 0) + count
    largest_page = max(page.values())
    if len(per_window) > 1 and not hybrid:
        per_window = {None: sum(per_window.values())}
    fewest, most = min(per_window.values()), max(per_window.values())
    size = most if most < _PAD_INSTEAD * fewest else fewest
    windows: list[int | None] = []
    for window, count in per_window.items():
        windows += [window] * ceil_div(count, size)
    return Groups(
        windows=tuple(windows), bytes_per_block=largest_page * max(stage_layers(size, pp)), block=block
    )
