"""
What transformers keeps between two tokens: DynamicCache's tensors, sliding layers, indexers and recurrent states.

Source: transformers 5.23.0, cache_utils.py, https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/cache_utils.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.sparse import CompressedAttention
from vram_planner.engines.transformers_pass import FLOAT_BYTES

if TYPE_CHECKING:
    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.cache import KvCache, StateCache

# DynamicSlidingWindowLayer keeps its window as an int64 tensor, StaticLayer the number of tokens so far.
COUNTER_BYTES = 8

# These keep the last inputs of their convolution as wide as its kernel: one token more than they need.
_WHOLE_KERNEL = frozenset({"mamba", "mamba2", "gated_delta", "kimi_delta", "short_conv"})
# Their state has the model's dtype; every other one is float32.
_NARROW_STATE = frozenset({"linear", "mlstm", "convolved_attention"})


def stored_tokens(total: int, window: int | None, *, decoded: bool, static: int | None = None) -> int:
    """
    Tokens whose keys and values one layer's storage holds: n, or min(n, window) once decoding has begun.

    After prefill a sliding layer keeps a view of its last window − 1 tokens, and the view pins the whole
    prompt's storage; the first decode step concatenates window − 1 old tokens and a new one into new storage.
    Chunked layers are cached as sliding ones. A StaticCache for `static` tokens holds them, or a window of them, from
    the start. Source: DynamicSlidingWindowLayer.update, StaticSlidingWindowLayer.
    """
    if static is not None:
        return static if window is None else min(window, static)
    return min(total, window) if window is not None and decoded else total


def layer_cache_bytes(cache: KvCache, tokens: int, element_bytes: int) -> tuple[int, int]:
    """
    Bytes of the two tensors that one layer caches for `tokens` tokens.

    Keys and values of every KV head; for MLA the latent and the shared rotary key, whose widths only
    matter as a sum: they are cached compressed (DeepseekV3Attention.forward, "while latent KV is still compressed").
    """
    return (
        cache.n_heads * cache.key_dim * tokens * element_bytes,
        cache.n_heads * cache.value_dim * tokens * element_bytes,
    )


def cache_bytes(cache: KvCache, batch: int, tokens: int, element_bytes: int, *, static: bool = False) -> int:
    """Bytes of one layer's cache as its tensors' storages hold them, its counter included."""
    counter = COUNTER_BYTES if static or cache.window is not None else 0
    return batch * sum(layer_cache_bytes(cache, tokens, element_bytes)) + counter


def state_bytes(state: StateCache, batch: int, element_bytes: int) -> int:
    """
    Bytes of one layer's recurrent state for `batch` sequences: C · K of the convolution, and the state.

    C are the channels of the convolution, K its kernel. Source: LinearAttentionLayer.lazy_initialization, which
    makes both as the mixer hands them over.
    """
    tokens = state.conv_tokens + (1 if state.kind in _WHOLE_KERNEL else 0)
    state_size = element_bytes if state.kind in _NARROW_STATE else FLOAT_BYTES
    # Inkling's short convolutions are kept in float32 (_keep_in_fp32_modules_strict), and so are their inputs.
    conv_size = FLOAT_BYTES if state.kind == "short_conv" and state.float32_state else element_bytes
    return batch * (state.conv_channels * tokens * conv_size + state.state_elements * state_size)


def growing_cache(mixer: Mixer) -> KvCache | None:
    """
    What a mixer keeps per token of text: a cross-attention's keys come with images, and a text has none.

    None too for compressed entries: `transformers_compressed` counts them.
    """
    cache = mixer.cache
    if cache is None or cache.fixed_tokens is not None or isinstance(mixer, CompressedAttention):
        return None
    return cache
