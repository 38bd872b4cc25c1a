"""
transformers' cache and live bytes of attention over a window and compressed entries (DeepSeek-V4).

Source: transformers 5.23.0, models/deepseek_v4/modeling_deepseek_v4.py (DeepseekV4HCACache, DeepseekV4CSACache,
DeepseekV4Attention, DeepseekV4HyperConnection),
https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/deepseek_v4/modeling_deepseek_v4.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.engines.transformers_pass import FLOAT_BYTES, Pass, rounded

if TYPE_CHECKING:
    from vram_planner.architecture.sparse import CompressedAttention, Compressor

_COUNTER_BYTES = 8


def compressed_cache_bytes(
    mixer: CompressedAttention, batch: int, tokens: int, element_bytes: int, *, decoded: bool
) -> int:
    """
    Bytes that the storages of one layer's cache hold for n tokens of each of B requests: window and compressors.

        window       min(n, W) · D once decoding has begun, n · D after a prefill, whose storage its view pins;
                     keys and values are one tensor beside compressors, two in a layer with the window alone
        entries      floor(n / m) · w
        waiting      2 · s · w tokens of projections: ((n − 1) mod m) + 1, or all n after a prefill (a view again)
        overlap      2 · m · w, with two series (s = 2), once a group of m has closed

    W window, D head_dim, m tokens of a group, w an entry's width, s series; an indexer has a compressor of its own.
    """
    places = min(tokens, mixer.window) if decoded else tokens
    tensors = 2 if mixer.far is None else 1
    elements = tensors * places * mixer.head_dim
    for compressor in (mixer.far, mixer.chooser):
        if compressor is not None:
            elements += _compressor_elements(compressor, tokens, decoded=decoded)
    return batch * elements * element_bytes + _COUNTER_BYTES


def _compressor_elements(one: Compressor, tokens: int, *, decoded: bool) -> int:
    entries = tokens // one.stride
    waiting = (tokens - 1) % one.stride + 1 if decoded else tokens
    overlap = 2 * one.stride * one.width if one.overlap and entries else 0
    return entries * one.width + 2 * one.series * one.width * waiting + overlap


def compressed_attention_bytes(mixer: CompressedAttention, step: Pass) -> int:
    """
    Peak of eager attention with sinks beyond hidden states and caches.

    Query, its latent, keys with the entries beside them, masks, and at the softmax three copies of the scores; or before, with
    several requests, the keys copied for every head beside the scores. While queries are normed they live in the
    model's dtype and twice in float32.
    """
    heads, far = mixer.n_heads, mixer.far
    entries = 0 if far is None else step.total // far.stride
    seen = step.keys(mixer.window)
    keys = seen + entries
    query = step.size(step.tokens * heads * mixer.head_dim)
    kept = query + step.size(step.tokens * mixer.q_rank)
    if step.new > 1:
        kept += step.size(step.new * seen)
    if entries:
        kept += step.size(step.batch * keys * mixer.head_dim)
        kept += step.size(step.tokens * keys) + step.size(step.tokens * (entries + 1)) if step.new > 1 else 0
    count = step.tokens * heads * keys
    wide = step.size(count + step.tokens * heads)
    copied = step.size(step.batch * heads * keys * mixer.head_dim) if step.batch > 1 else 0
    normed = query + 2 * step.floats(step.tokens * heads * mixer.head_dim)
    return max(kept + max(step.size(count) + 2 * wide, step.size(count) + copied), normed)


def streams_bytes(streams: int, hidden: int, step: Pass) -> int:
    """
    Mixing n residual streams: a float32 copy of them, its square, and float32 weights of n · (2 + n) rows of n · H.

    Source: DeepseekV4HyperConnection.forward.
    """
    copies = 2 * step.floats(step.tokens * streams * hidden)
    return copies + rounded(streams * (2 + streams) * streams * hidden * FLOAT_BYTES)
