"""Rarer kinds of attention: in chunks, over an image, over chosen blocks, of experts, beside convolutions."""

from __future__ import annotations

from dataclasses import dataclass

from vram_planner.architecture.attention import AroundAttention, FullAttention, PlainMixer, SlidingWindow
from vram_planner.architecture.cache import KvCache, StateCache
from vram_planner.architecture.weight import Role, Weight, linear, norm, row_linear


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkedAttention(AroundAttention):
    """
    Attention within chunks of `chunk` tokens: a token sees those before it in its own chunk, none of earlier ones.

    The cache holds at most min(context, chunk) tokens. Source: transformers models/llama4/modeling_llama4.py,
    create_chunked_causal_mask; cache_utils.py keeps it as a sliding window of `attention_chunk_size`.
    """

    inner: FullAttention
    chunk: int

    @property
    def cache(self) -> KvCache:
        """As inside, bounded by the chunk."""
        inner = self.inner.cache
        return KvCache(
            n_heads=inner.n_heads,
            key_dim=inner.key_dim,
            value_dim=inner.value_dim,
            window=self.chunk,
            chunked=True,
        )

    def score_flops(self, context: int) -> int:
        """As inside, over at most the chunk."""
        return self.inner.score_flops(min(context, self.chunk))


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossAttention(AroundAttention):
    """
    Attention of text over the tokens of an image: keys and values are made once, from the encoder's output.

    `tokens` is what one image leaves in the cache, whatever the context: tiles · (patches + 1). A prompt
    without an image leaves nothing. Source: transformers models/mllama/modeling_mllama.py,
    MllamaTextCrossAttention.
    """

    inner: FullAttention
    tokens: int

    @property
    def cache(self) -> KvCache:
        """As inside, filled once."""
        inner = self.inner.cache
        return KvCache(
            n_heads=inner.n_heads,
            key_dim=inner.key_dim,
            value_dim=inner.value_dim,
            fixed_tokens=self.tokens,
        )

    def score_flops(self, context: int) -> int:  # noqa: ARG002  the shape of Mixer
        """As inside, over the image's tokens."""
        return self.inner.score_flops(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSparse(AroundAttention):
    """
    Attention that reads only the `blocks` blocks of `block` tokens that an indexer chose (MiniMax-M3).

    The cache still holds every token. The indexer has `index_heads` queries and one key of `index_dim` a token,
    both with a norm; every rank holds all of it. Source: transformers models/minimax_m3_vl/
    modeling_minimax_m3_vl.py, MiniMaxM3VLIndexer and MiniMaxM3VLSparseCacheLayer.
    """

    inner: FullAttention
    index_heads: int
    index_dim: int
    block: int
    blocks: int

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Those of the attention inside and of the indexer."""
        hidden = self.inner.hidden
        return (
            *self.inner.weights,
            *linear("indexer.q_proj", self.index_heads * self.index_dim, hidden),
            *linear("indexer.k_proj", self.index_dim, hidden),
            *norm("indexer.q_norm", self.index_dim),
            *norm("indexer.k_norm", self.index_dim),
        )

    @property
    def cache(self) -> KvCache:
        """As inside: the choice is made anew for each token."""
        return self.inner.cache

    @property
    def indexer(self) -> KvCache:
        """One key a token."""
        return KvCache(n_heads=1, key_dim=self.index_dim, value_dim=0, latent=True)

    def score_flops(self, context: int) -> int:
        """As inside, over at most blocks · block tokens, and the indexer's: 2 · heads · dim · context."""
        chosen = min(context, self.blocks * self.block)
        return self.inner.score_flops(chosen) + 2 * self.index_heads * self.index_dim * context


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolved(AroundAttention):
    """
    Attention with short convolutions over time in the same layer: on its keys and values, its output, the MLP's.

    `channels` is the sum of their widths, `kernel` the tokens that each reads; the last kernel − 1 inputs are
    the state. `extras` are the tensors that are not the attention's own. Source: transformers
    models/inkling/modeling_inkling.py, InklingShortConvolution, which keeps its state in float32.
    """

    inner: FullAttention | SlidingWindow
    channels: int
    kernel: int
    extras: tuple[Weight, ...]

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Those of the attention inside, then its own."""
        return (*self.inner.weights, *self.extras)

    @property
    def cache(self) -> KvCache:
        """As inside."""
        return self.inner.cache

    @property
    def state(self) -> StateCache:
        """The last inputs of every convolution."""
        return StateCache(
            kind="short_conv",
            heads=1,
            state_elements=0,
            conv_channels=self.channels,
            conv_tokens=self.kernel - 1,
            float32_state=True,
        )

    def score_flops(self, context: int) -> int:
        """As inside."""
        return self.inner.score_flops(context)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureOfAttention(PlainMixer):
    """
    Attention whose query and output projections are experts: each token takes `top_k` of `n_experts` (JetMoe).

    All experts share `n_kv_heads` keys and values; a token has top_k · n_kv_heads query heads, one set an
    expert. Source: transformers models/jetmoe/modeling_jetmoe.py, JetMoeAttention; https://arxiv.org/abs/2404.07413.
    """

    hidden: int
    n_experts: int
    top_k: int
    n_kv_heads: int
    head_dim: int

    @property
    def n_heads(self) -> int:
        """Query heads of one token."""
        return self.top_k * self.n_kv_heads

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Router, the stacks of q and o projections with the shift of their sum, k and v."""
        n, width, hidden, heads = (
            self.n_experts,
            self.n_kv_heads * self.head_dim,
            self.hidden,
            self.n_kv_heads,
        )
        return (
            *linear("attention_router", n, hidden, role=Role.ROUTER),
            Weight(name="experts.q", shape=(n, width, hidden), role=Role.EXPERT, units=heads),
            Weight(name="experts.o", shape=(n, hidden, width), role=Role.EXPERT, units=heads),
            Weight(name="o.bias", shape=(hidden,), role=Role.BIAS),
            *linear("k_proj", width, hidden, units=heads),
            *linear("v_proj", width, hidden, units=heads),
        )

    @property
    def cache(self) -> KvCache:
        """One key and one value a KV head; the experts share them."""
        return KvCache(n_heads=self.n_kv_heads, key_dim=self.head_dim, value_dim=self.head_dim)

    def score_flops(self, context: int) -> int:
        """2 · 2 · top_k · heads · head_dim · context."""
        return 4 * self.n_heads * self.head_dim * context


@dataclass(frozen=True, slots=True, kw_only=True)
class UnevenAttention(AroundAttention):
    """
    Grouped-query attention whose values are narrower or wider than its keys, over all tokens or a window.

    `inner` has the keys' head_dim d_k; v is H_kv · d_v wide and o reads H · d_v. Source: transformers
    models/mimo_v2_flash/modeling_mimo_v2_flash.py, MiMoV2FlashAttention.
    """

    inner: FullAttention
    value_dim: int
    window: int | None = None

    @property
    def weights(self) -> tuple[Weight, ...]:
        """As inside, with the values' width in v and o."""
        inner, value = self.inner, self.value_dim
        changed = {
            weight.name: weight
            for weight in (
                *linear(
                    "v_proj",
                    inner.n_kv_heads * value,
                    inner.hidden,
                    units=inner.n_kv_heads,
                    bias=inner.qkv_bias,
                ),
                *row_linear(
                    "o_proj", inner.hidden, inner.n_heads * value, units=inner.n_heads, bias=inner.out_bias
                ),
            )
        }
        return tuple(changed.get(weight.name, weight) for weight in inner.weights)

    @property
    def cache(self) -> KvCache:
        """Keys of one width, values of another."""
        return KvCache(
            n_heads=self.inner.n_kv_heads,
            key_dim=self.inner.head_dim,
            value_dim=self.value_dim,
            window=self.window,
        )

    def score_flops(self, context: int) -> int:
        """QKᵀ and the weighted sum: 2 · heads · (d_k + d_v) · tokens in sight."""
        seen = context if self.window is None else min(context, self.window)
        return 2 * self.inner.n_heads * (self.inner.head_dim + self.value_dim) * seen
