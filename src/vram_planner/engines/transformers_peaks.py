"""
Live bytes of one forward pass of transformers, moment by moment, read off its modeling code.

Every figure is what `torch.cuda.max_memory_allocated` would add to the weights: each tensor rounded up
to 512 bytes, as the caching allocator does. Symbols used throughout:

    B  requests in the batch      L  query tokens of each (prompt at prefill, 1 at decode)
    T  B · L                      K  keys that a layer attends to
    H  hidden size                h  query heads       b  bytes of one activation
    I  width of the MLP           S  T · experts per token

Source: transformers 5.23.0, models/*/modeling_*.py, integrations/{sdpa_attention,moe}.py, cache_utils.py,
https://github.com/huggingface/transformers/tree/v5.23.0/src/transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.feed_forward import DenseMLP, MixtureOfExperts, NoFeedForward
from vram_planner.architecture.sparse import CompressedAttention
from vram_planner.engines.transformers_cache import growing_cache, layer_cache_bytes, stored_tokens
from vram_planner.engines.transformers_compressed import streams_bytes
from vram_planner.engines.transformers_mixers import (
    before_cache_bytes,
    kept_scores_bytes,
    mixer_bytes,
    plain_attention,
)
from vram_planner.engines.transformers_pass import FLOAT_BYTES, INDEX_BYTES, Pass, rounded
from vram_planner.errors import UnsupportedArchitectureError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vram_planner.architecture.cache import KvCache
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.model import Layer
    from vram_planner.engines.transformers_traits import Traits


def _gated_width(block: DenseMLP, traits: Traits) -> int:
    """
    How many tensors of I live when an MLP multiplies: act(gate), up and the product; fused gate_up keeps 2 I beside both.
    An activation written in Python takes two more.

    Source: LlamaMLP.forward, Phi3MLP.forward, Gemma3nTextMLP.forward (which keeps the gate's projection).
    """
    if not block.gated:
        return traits.act_width
    return 4 if block.fused or traits.streams > 1 else 3


def feed_forward_bytes(block: FeedForward, step: Pass, traits: Traits) -> int:
    """Peak of a feed-forward block beyond its input."""
    if isinstance(block, NoFeedForward):
        return 0
    if isinstance(block, DenseMLP):
        width = step.tokens * block.intermediate
        if traits.norms_product:
            return max(3 * step.size(width), step.size(width) + 2 * step.floats(width))
        flags = 0 if block.gated else traits.act_flags * rounded(width)
        return _gated_width(block, traits) * step.size(width) + flags
    if isinstance(block, MixtureOfExperts):
        return _all_experts_bytes(block, step) if traits.all_experts else _experts_bytes(block, step, traits)
    raise UnsupportedArchitectureError(
        f"the transformers engine does not know the block {type(block).__name__}", hint="use --engine vllm"
    )


def _all_experts_bytes(block: MixtureOfExperts, step: Pass) -> int:
    """
    Every expert computes every token, and the shared block's output waits: E·T·(H + 4·I) + T·H.

    Source: Llama4TextMoe.forward, Llama4TextExperts.forward.
    """
    tokens = step.tokens * block.n_experts
    wide = 4 * step.size(tokens * block.expert_intermediate)
    return step.size(tokens * block.hidden) + wide + step.size(step.tokens * block.hidden)


def _experts_bytes(block: MixtureOfExperts, step: Pass, traits: Traits) -> int:
    """
    Peak of grouped_mm_experts_forward: max(S·(H + 4·I) + biases, 4·S·H), or the shared block after it.

    First moment: the sorted copy of the input, gate_up (2 I), act(gate) and the product. Second: sorted input,
    output, weighted output and the same in the old order, the last two in float32 where the router's weights are.
    Beside them: indices (sorted, order, inverse, chosen), weights, the histogram's input, router logits.
    """
    tokens, pairs = step.tokens, step.tokens * block.top_k
    rows, width = step.size(pairs * block.hidden), step.size(pairs * block.expert_intermediate)
    gate = (4 if block.gated else 2) * width + (2 * width if block.bias else 0)
    books = 3 * rounded(pairs * INDEX_BYTES) + rounded(pairs * FLOAT_BYTES) + 2 * step.size(pairs)
    books += step.size(tokens * block.n_experts) + 2 * rounded(block.n_experts * FLOAT_BYTES)
    in_float = block.correction_bias if traits.routes_in_float is None else traits.routes_in_float
    weighted = step.floats(pairs * block.hidden) if in_float else rows
    routed = max(rows + gate, 2 * rows + 2 * weighted + rounded(pairs * INDEX_BYTES)) + books
    if block.shared is None:
        return routed
    output = step.size(tokens * block.hidden)
    shared = output + feed_forward_bytes(block.shared, step, traits)
    waiting = output if traits.shared_first else 0
    return max(routed + waiting, shared + step.size(tokens * block.n_experts))


def mask_bytes(windows: Iterable[int | None], step: Pass, *, forced: int = 0) -> int:
    """
    Bytes of the causal masks, one for each kind of layer, shared by the batch.

    Eager attention adds a mask of B · L · K activations: `torch.where` makes one of each request's. sdpa and flash leave the mask out, unless a window is shorter than
    the prompt: then sdpa gets L · K booleans (masking_utils.py, _ignore_causal_mask_sdpa; flash cuts by itself), or B · L · K where
    some of the tokens are padding. `forced` are
    masks that are made all the same.
    """
    if step.attn == "eager":
        idle = forced * step.size(step.tokens * step.keys(None))
        return idle + sum(step.size(step.tokens * step.keys(window)) for window in windows)
    if step.attn == "sdpa" and step.padded:
        return (forced + len(tuple(windows))) * rounded(step.tokens * step.total)
    if step.attn != "sdpa" or step.new == 1:
        return 0
    return forced * rounded(step.new * step.total) + sum(
        rounded(step.new * step.keys(window))
        for window in windows
        if window is not None and window <= step.total
    )


def fresh_bytes(cache: KvCache, step: Pass) -> int:
    """The keys and values (or the two latents) of the new tokens, before they are appended."""
    return 2 * step.size(step.tokens * cache.n_heads * max(cache.key_dim, 1))


def _appended_bytes(cache: KvCache, step: Pass) -> int:
    """
    What appending to one layer's cache holds at its peak beyond the cache after it.

    torch.cat makes new keys, drops the old, then new values while the old are alive: old values, and the appended k and v.
    A sliding layer concatenates both before it drops either. At prefill nothing is old.
    """
    fresh = fresh_bytes(cache, step)
    if step.static is not None:
        return fresh + _rolled_bytes(cache, step, step.static)
    if step.past == 0:
        return fresh
    past = step.batch * step.past * cache.n_heads
    if cache.window is None:
        return fresh + step.size(past * cache.value_dim)
    old = step.batch * min(step.past, cache.window) * cache.n_heads
    return fresh + step.size(old * cache.key_dim) + step.size(old * cache.value_dim)


def _rolled_bytes(cache: KvCache, step: Pass, static: int) -> int:
    """A full window of a StaticCache is rolled on into new tensors, and copied back (StaticSlidingWindowLayer.update)."""
    if cache.window is None or step.past < (places := min(cache.window, static)):
        return 0
    return sum(
        rounded(step.batch * n_bytes) for n_bytes in layer_cache_bytes(cache, places, step.element_bytes)
    )


def layer_bytes(layer: Layer, step: Pass, hidden: int, traits: Traits) -> int:
    """
    Peak of one layer beyond the cache of all layers and the masks.

    Beside each stage live the embedded input, the layer's input, and the normalised input; in the
    feed-forward block also the sum after attention. A norm holds two float32 copies of its input.
    Until the layer's own cache or state is written its bytes are still to come.
    """
    cache = growing_cache(layer.mixer)
    state = step.size(step.tokens * hidden)
    beside = (2 if traits.post_norm else 3) * state + (state if traits.wide_residual else 0)
    beside += 4 * traits.streams * state if traits.streams > 1 else 0
    beside += traits.mixed_streams * state
    fed = beside
    if not isinstance(layer.feed_forward, NoFeedForward):
        with_experts = isinstance(layer.feed_forward, MixtureOfExperts)
        more = traits.kept_states + (traits.kept_beside_experts if with_experts else 0)
        fed += (1 + more) * state + feed_forward_bytes(layer.feed_forward, step, traits)
        fed += kept_scores_bytes(layer.mixer, step) if traits.keeps_scores else 0
    recurs = plain_attention(layer.mixer) is None and not isinstance(layer.mixer, CompressedAttention)
    new_state = layer.mixer.state if step.past == 0 and recurs else None
    unset = 0 if new_state is None else step.floats(step.batch * new_state.state_elements)
    stages = [
        beside + mixer_bytes(layer.mixer, step, traits) - unset,
        fed,
        3 * state + 2 * FLOAT_BYTES // step.element_bytes * state,
    ]
    if traits.mixed_streams:
        stages.append(beside + streams_bytes(traits.mixed_streams, hidden, step))
    if cache is not None:
        query = 0 if cache.latent else step.size(step.tokens * layer.mixer.n_heads * cache.key_dim)
        stages.append(beside + query + _appended_bytes(cache, step))
        tokens = stored_tokens(step.new, cache.window, decoded=False, static=step.static)
        to_come = sum(layer_cache_bytes(cache, step.batch * tokens, step.element_bytes))
        stages.append(beside + before_cache_bytes(layer.mixer, step, traits) - to_come)
    return max(stages)


def per_layer_embedding_bytes(step: Pass, hidden: int, width: int) -> int:
    """
    Making all layers' own embeddings: the embedded input, two tensors of all layers, and their norm in float32.

    Source: Gemma4TextModel.project_per_layer_inputs, Gemma3nTextModel.project_per_layer_inputs.
    """
    if not width:
        return 0
    every = step.tokens * width
    return step.size(step.tokens * hidden) + 2 * step.size(every) + 2 * step.floats(every)
