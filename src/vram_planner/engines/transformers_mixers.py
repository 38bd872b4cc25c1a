"""
Live bytes of attention in transformers, once the layer's cache is written. Symbols as in `transformers_peaks`.

Source: transformers 5.23.0, models/*/modeling_*.py, integrations/sdpa_attention.py,
https://github.com/huggingface/transformers/tree/v5.23.0/src/transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.attention import BorrowedKv, FullAttention, Latent, NoMixer, SlidingWindow
from vram_planner.architecture.cross import (
    BlockSparse,
    ChunkedAttention,
    Convolved,
    CrossAttention,
    UnevenAttention,
)
from vram_planner.architecture.passes import Rerun, Uncached
from vram_planner.architecture.side_by_side import SideBySide
from vram_planner.architecture.sparse import CompressedAttention, SparseLatent
from vram_planner.engines.transformers_compressed import compressed_attention_bytes
from vram_planner.engines.transformers_pass import FLOAT_BYTES, INDEX_BYTES, Pass, rounded
from vram_planner.engines.transformers_states import recurrent_bytes

if TYPE_CHECKING:
    from vram_planner.architecture.attention import Mixer
    from vram_planner.engines.transformers_traits import Traits


def plain_attention(mixer: Mixer) -> tuple[FullAttention | Latent, int | None] | None:
    """The attention inside a mixer, and how many tokens it sees (None: all); None where there is none."""
    if isinstance(mixer, SideBySide | Convolved):
        return plain_attention(mixer.attention if isinstance(mixer, SideBySide) else mixer.inner)
    if isinstance(mixer, FullAttention | Latent):
        return mixer, None
    if isinstance(mixer, SlidingWindow | BorrowedKv | UnevenAttention):
        return mixer.inner, mixer.window
    if isinstance(mixer, ChunkedAttention):
        return mixer.inner, mixer.chunk
    if isinstance(mixer, SparseLatent | BlockSparse | CrossAttention | Rerun | Uncached):
        return mixer.inner, None
    return None


def mixer_bytes(mixer: Mixer, step: Pass, traits: Traits) -> int:
    """Peak of attention proper or of a recurrent mixer, beyond hidden states, masks and caches."""
    if isinstance(mixer, NoMixer | CrossAttention):  # a text has nothing to look at: the layer is skipped
        return 0
    if isinstance(mixer, SideBySide):
        beside = step.size(step.tokens * mixer.attention.n_heads)
        return beside + max(
            mixer_bytes(mixer.attention, step, traits), recurrent_bytes(mixer.recurrent, step, traits.chunk)
        )
    if isinstance(mixer, CompressedAttention):
        return compressed_attention_bytes(mixer, step)
    found = plain_attention(mixer)
    if found is None:
        return recurrent_bytes(mixer, step, traits.chunk)
    inner, window = found
    if isinstance(inner, Latent):
        chosen = _indexer_bytes(mixer, step) if isinstance(mixer, SparseLatent) else 0
        return _latent_bytes(inner, step, chosen, sinks=traits.latent_sinks)
    value_dim = mixer.value_dim if isinstance(mixer, UnevenAttention) else inner.head_dim
    return _heads_bytes(inner, (window, value_dim), step, traits)


def _heads_bytes(inner: FullAttention, seen: tuple[int | None, int], step: Pass, traits: Traits) -> int:
    """
    Queries, output and, where kernels need them, keys and values repeated for every query head.

    `seen` is the window (None: all tokens) and the width of a value.
    """
    window, value_dim = seen
    keys = step.keys(window)
    kept = _queries_bytes(inner, step, traits)
    if traits.masks_each_head:
        if traits.distances and step.attn != "eager":
            return kept + _gathered_bytes(inner.n_heads, keys, step, traits.distances)
        kept += step.size(step.tokens * inner.n_heads * keys)
    copies = 0  # repeat_kv: eager always, sdpa only beside a mask; of a single head it is a view
    if inner.n_heads > inner.n_kv_heads > 1:
        copies = sum(
            step.size(step.batch * keys * inner.n_heads * width) for width in (inner.head_dim, value_dim)
        )
    if step.attn == "eager":
        return kept + copies + _eager_bytes(inner, (keys, value_dim), step, traits)
    if step.attn == "sdpa" and traits.unfused:
        return kept + _math_kernel_bytes(inner.n_heads, inner.n_kv_heads, (inner.head_dim, value_dim), step)
    slides = window is not None and window <= step.total
    # A single new token folds the heads of a group into its length instead (sdpa_attention_forward).
    masked = step.attn == "sdpa" and step.new > 1 and (slides or step.padded)
    softmax = rounded(step.tokens * inner.n_heads * FLOAT_BYTES)  # the fused kernels keep log-sum-exp
    return kept + step.size(step.tokens * inner.n_heads * value_dim) + softmax + (copies if masked else 0)


def _queries_bytes(inner: FullAttention, step: Pass, traits: Traits) -> int:
    """Queries, and what their layer holds on to beside them until it returns."""
    query = step.size(step.tokens * inner.n_heads * inner.head_dim)
    kept = query
    if inner.gated_query:  # the gate shares the queries' projection, which lives until the output is gated
        kept += 2 * query
    if traits.gates_first:
        kept += query
    if inner.fused_qkv:  # Phi3Attention.forward keeps the fused projection until it returns
        kept += step.size(step.tokens * (inner.n_heads + 2 * inner.n_kv_heads) * inner.head_dim)
    return kept


def _gathered_bytes(heads: int, keys: int, step: Pass, distances: int) -> int:
    """
    A bias for each head by distance: T · h · D of the table, what is gathered of it for all keys, and the same cut.

    Beside them distances as int64, and cut to the table. Source: InklingRelativeLogits.forward.
    """
    table = step.size(step.tokens * heads * distances)
    places = 2 * rounded(step.new * keys * INDEX_BYTES)
    return table + places + 2 * step.size(step.tokens * heads * keys)


def _eager_bytes(inner: FullAttention, seen: tuple[int, int], step: Pass, traits: Traits) -> int:
    """
    Eager attention: at the softmax, or at a product with a single KV head, which is copied for every query head there.

    (B · h, K, d) is no view of a broadcast head once there is more than one request. `seen` are keys and a value's width.
    """
    keys, value_dim = seen
    if traits.score_bytes is not None and step.element_bytes < FLOAT_BYTES:
        return rounded(step.tokens * inner.n_heads * keys * traits.score_bytes)
    if traits.scores_in_float:
        return _float_scores_bytes(inner, keys, step)
    softmax = _scores_bytes(inner.n_heads, keys, step, sinks=inner.sinks and not traits.sinks_apart)
    if inner.n_kv_heads > 1 or inner.n_heads == 1 or step.batch == 1:
        return softmax
    copied = step.size(step.batch * inner.n_heads * keys * value_dim)
    scores = step.size(step.tokens * inner.n_heads * keys)
    return max(softmax, scores + copied + step.size(step.tokens * inner.n_heads * value_dim))


def _float_scores_bytes(inner: FullAttention, keys: int, step: Pass) -> int:
    """Scores, scores with the sink beside them and their softmax in float32; or queries and keys in float32, and the scores."""
    count = step.tokens * inner.n_heads
    copies = step.floats(count * inner.head_dim) + step.floats(
        step.batch * inner.n_heads * keys * inner.head_dim
    )
    return max(
        step.floats(count * keys) + 2 * step.floats(count * (keys + 1)), copies + step.floats(count * keys)
    )


def _scores_bytes(heads: int, keys: int, step: Pass, *, sinks: bool) -> int:
    """
    Copies of the B · h · L · K scores at eager attention's peak, the softmax.

    The scores, their float32 copy and its softmax: b + 4 + 4 bytes each (4 + 4 in float32). With sinks the softmax stays
    in b: scores, scores with the sink beside them, and the same less their maximum: 3 b.
    Source: eager_attention_forward of Llama and of gpt-oss.
    """
    count = step.batch * heads * step.new * keys
    if sinks:
        wide = count + step.batch * heads * step.new
        return step.size(count) + 2 * step.size(wide)
    floats = 2 if step.element_bytes < FLOAT_BYTES else 1
    return step.size(count) + floats * rounded(count * FLOAT_BYTES)


def _latent_bytes(mixer: Latent, step: Pass, chosen: int, *, sinks: bool) -> int:
    """
    MLA expands the cached latent for every head at every step: keys h·(nope + rope), kv_b's output h·(nope + v).

    Beside them live the projected queries, their rotary part, the queries put together, the compressed input.
    The unfused sdpa adds float32 copies: q twice, k, v, a mask, and two of the scores. `chosen` is what an
    indexer takes at its peak, beside the expanded keys and values.
    Source: DeepseekV3Attention.forward and expand_kv; at::_scaled_dot_product_attention_math.
    """
    heads, key_dim = mixer.n_heads, mixer.nope_dim + mixer.rope_dim
    stored = step.batch * step.keys(None)
    kept = 2 * step.size(step.tokens * heads * key_dim) + step.size(step.tokens * heads * mixer.rope_dim)
    kept += step.size(step.tokens * (mixer.kv_rank + mixer.rope_dim))
    kept += step.size(stored * heads * key_dim) + step.size(
        stored * heads * (mixer.nope_dim + mixer.value_dim)
    )
    if step.attn == "eager":
        softmax = _scores_bytes(heads, step.keys(None), step, sinks=sinks)
        return kept + max(chosen, softmax, _copied_values_bytes(mixer, step))
    if step.attn == "sdpa" and step.math_kernel and key_dim != mixer.value_dim:
        return kept + max(chosen, _math_kernel_bytes(heads, heads, (key_dim, mixer.value_dim), step))
    padded = step.size(step.tokens * heads * key_dim) if step.attn == "flash_attention_2" else 0
    return kept + max(chosen, 2 * step.size(step.tokens * heads * mixer.value_dim) + padded)


def _copied_values_bytes(mixer: Latent, step: Pass) -> int:
    """Values are a part of kv_b's output: for more than one request bmm takes a copy of them, beside scores and output."""
    if step.batch == 1:
        return 0
    values = step.size(step.batch * step.keys(None) * mixer.n_heads * mixer.value_dim)
    scores = step.size(step.tokens * mixer.n_heads * step.keys(None))
    return values + scores + step.size(step.tokens * mixer.n_heads * mixer.value_dim)


def _math_kernel_bytes(heads: int, kv_heads: int, widths: tuple[int, int], step: Pass) -> int:
    """
    at::_scaled_dot_product_attention_math in float32: q, k and v, then scaled copies of q and k for one product.

    While the product is made: q and k twice, v, the scores; while the mask is added: q twice, k, v, mask, scores twice.
    Fewer KV heads are copied for every query head once there is more than one request.
    """
    stored = step.batch * step.keys(None)
    query = step.floats(step.tokens * heads * widths[0])
    key, value = (step.floats(stored * kv_heads * width) for width in widths)
    scores = step.floats(step.tokens * heads * step.keys(None))
    mask = step.floats(step.new * step.keys(None)) if step.new > 1 else 0
    broadcast = step.floats(stored * heads * widths[0]) if kv_heads < heads and step.batch > 1 else 0
    return 2 * query + key + value + mask + scores + max(key + broadcast, scores)


def _indexer_bytes(mixer: SparseLatent, step: Pass) -> int:
    """
    Float32 scores of every indexer head, before and after they are scaled, and the float32 queries.

    For more than one request the product copies the keys for every query token. Source: DeepseekV32Indexer.forward.
    """
    chooser = mixer.chooser
    if chooser is None:
        return 0
    scores = step.floats(step.tokens * chooser.n_heads * step.keys(None))
    queries = step.tokens * chooser.n_heads * chooser.head_dim
    copies = step.floats(step.tokens * step.keys(None) * chooser.head_dim) if step.batch > 1 else 0
    return scores + max(scores, copies) + step.floats(queries) + step.size(queries)


def kept_scores_bytes(mixer: Mixer, step: Pass) -> int:
    """The scores of eager attention, as its caller keeps them."""
    found = plain_attention(mixer)
    if found is None or step.attn != "eager":
        return 0
    return step.size(step.tokens * mixer.n_heads * step.keys(found[1]))


def before_cache_bytes(mixer: Mixer, step: Pass, traits: Traits) -> int:
    """
    Peak of projections, head norms and rotation, before the layer's cache is written.

    Rotation: q, q·cos, rotate_half(q), its product with sin, and k and v. Norms over heads work in float32: q, its float32
    copy and the normalised one, twice over (Qwen3RMSNorm.forward).
    """
    found = plain_attention(mixer)
    if found is None or isinstance(found[0], Latent):
        return 0  # what expand_kv makes is larger by far
    inner = found[0]
    query = step.size(step.tokens * inner.n_heads * inner.head_dim)
    pair = 2 * step.size(step.tokens * inner.n_kv_heads * inner.head_dim)
    normed = 0 if inner.qk_norm is None else query + 2 * FLOAT_BYTES // step.element_bytes * query
    if traits.turns_each_in_float:  # three products in float32 at a time
        wide, keys = (
            step.floats(step.tokens * n * inner.head_dim) for n in (inner.n_heads, inner.n_kv_heads)
        )
        tables = 2 * step.floats(step.new * inner.head_dim)  # cos and sin, each number twice
        return tables + pair + query + max(3 * wide, wide + 3 * keys)
    if traits.turns_in_float:  # q and k in float32, then three products of each in turn
        wide, keys = (
            step.floats(step.tokens * n * inner.head_dim) for n in (inner.n_heads, inner.n_kv_heads)
        )
        return pair + query + wide + keys + max(3 * wide, wide + 3 * keys)
    return pair + max(4 * query, normed)
