"""Kinds of attention. Each answers for its weights, its cache and its work; none knows a model's name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from vram_planner.architecture.cache import KvCache, StateCache
from vram_planner.architecture.weight import Role, Weight, linear, norm, row_linear


class Mixer(Protocol):
    """What every kind of token mixing answers (attention today, recurrent layers beside it)."""

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Its tensors."""

    @property
    def cache(self) -> KvCache | None:
        """What it keeps per token, or None."""

    @property
    def state(self) -> StateCache | None:
        """What it keeps per sequence, whatever its length, or None."""

    @property
    def indexer(self) -> KvCache | None:
        """What a sparse-attention indexer keeps per token beside the cache, or None."""

    @property
    def n_heads(self) -> int:
        """Query heads: what tensor parallelism must divide."""

    def score_flops(self, context: int) -> int:
        """Floating-point operations of one token that looks back over `context` tokens."""


class PlainMixer:
    """The answers of a mixer without state and without indexer."""

    __slots__ = ()

    @property
    def state(self) -> StateCache | None:
        """None."""
        return None

    @property
    def indexer(self) -> KvCache | None:
        """None."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoMixer(PlainMixer):
    """A layer that mixes no tokens: a feed-forward block alone (Nemotron-H)."""

    n_heads: int = 1

    @property
    def weights(self) -> tuple[Weight, ...]:
        """None."""
        return ()

    @property
    def cache(self) -> KvCache | None:
        """None."""
        return None

    def score_flops(self, context: int) -> int:  # noqa: ARG002  the shape of Mixer
        """None."""
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FullAttention(PlainMixer):
    """
    Multi-head, grouped-query or multi-query attention over all tokens.

    `n_kv_heads` equal to `n_heads` is MHA, 1 is MQA. `qk_norm` is the pair of widths of the
    norms on queries and keys: one head's (Qwen3, Gemma 3) or all heads' (OLMo 2), None for none.
    `sinks` adds one learned logit a head (gpt-oss). `fused_qkv` says that the checkpoint stores
    one matrix for the three projections (Phi-3), which only matters to block-quantised formats.
    `gated_query` says that q_proj also projects an output gate as wide as the queries (Qwen3-Next), `input_width`
    that q, k and v read a stream of another width than `hidden` (Zamba).
    `values_from_keys` says that the keys' projection gives the values too (Gemma 4); both are still kept, for
    only the keys are turned by their position. `extras` are further tensors of the block (an output gate …).
    """

    hidden: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: tuple[int, int] | None = None
    sinks: bool = False
    fused_qkv: bool = False
    values_from_keys: bool = False
    gated_query: bool = False
    input_width: int | None = None
    extras: tuple[Weight, ...] = ()

    @property
    def weights(self) -> tuple[Weight, ...]:
        """q, k, v and o projections, then the small ones."""
        q_out, kv_out = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        small: tuple[Weight, ...] = ()
        if self.qk_norm is not None:
            # A norm over all heads is dealt out with them; a norm over one head is not.
            small += tuple(
                Weight(name=name, shape=(width,), role=Role.NORM, units=units if width > self.head_dim else 1)
                for name, width, units in zip(
                    ("q_norm", "k_norm"), self.qk_norm, (self.n_heads, self.n_kv_heads), strict=True
                )
            )
        if self.sinks:
            small += (Weight(name="sinks", shape=(self.n_heads,), role=Role.BIAS, units=self.n_heads),)
        return (
            *self._qkv(q_out, kv_out),
            *row_linear("o_proj", self.hidden, q_out, units=self.n_heads, bias=self.out_bias),
            *small,
            *self.extras,
        )

    def _qkv(self, q_out: int, kv_out: int) -> tuple[Weight, ...]:
        into, queries = self.input_width or self.hidden, 2 * q_out if self.gated_query else q_out
        if self.fused_qkv and self.n_heads == self.n_kv_heads:
            return linear("qkv_proj", queries + 2 * kv_out, into, units=self.n_heads, bias=self.qkv_bias)
        names = ("k_proj",) if self.values_from_keys else ("k_proj", "v_proj")
        return (
            *linear("q_proj", queries, into, units=self.n_heads, bias=self.qkv_bias),
            *(
                weight
                for name in names
                for weight in linear(name, kv_out, into, units=self.n_kv_heads, bias=self.qkv_bias)
            ),
        )

    @property
    def cache(self) -> KvCache:
        """One key and one value a head."""
        return KvCache(n_heads=self.n_kv_heads, key_dim=self.head_dim, value_dim=self.head_dim)

    def score_flops(self, context: int) -> int:
        """QKᵀ and the weighted sum: 2 · 2 · heads · head_dim · context."""
        return 4 * self.n_heads * self.head_dim * context


class AroundAttention(PlainMixer):
    """A mixer around the attention `inner`: its weights and heads are those inside, where it says no other."""

    __slots__ = ()
    inner: Mixer

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Those of the attention inside."""
        return self.inner.weights

    @property
    def n_heads(self) -> int:
        """Query heads of the attention inside."""
        return self.inner.n_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidingWindow(AroundAttention):
    """Attention that reads only the last `window` tokens (Mistral 7B v0.1, Gemma, gpt-oss)."""

    inner: FullAttention | Latent
    window: int

    @property
    def cache(self) -> KvCache:
        """As inside, bounded by the window."""
        return replace(self.inner.cache, window=self.window)

    def score_flops(self, context: int) -> int:
        """As inside, over at most the window."""
        return self.inner.score_flops(min(context, self.window))


@dataclass(frozen=True, slots=True, kw_only=True)
class BorrowedKv(AroundAttention):
    """
    Attention over the keys and values of an earlier layer (Gemma 3n, Gemma 4): no projections of its own, no cache.

    `inner` is the attention as it would be with them; `window` as the layer that lends has it.
    """

    inner: FullAttention
    window: int | None = None

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Those of the attention inside, without what makes keys and values."""
        return tuple(w for w in self.inner.weights if not w.name.startswith(("k_proj", "v_proj", "k_norm")))

    @property
    def cache(self) -> KvCache | None:
        """None: the lending layer keeps it."""
        return None

    def score_flops(self, context: int) -> int:
        """As inside, over at most the window."""
        return self.inner.score_flops(context if self.window is None else min(context, self.window))


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent(PlainMixer):
    """
    Multi-head latent attention (MLA): one compressed vector a token instead of keys and values.

    The cache holds `kv_rank` + `rope_dim` elements a token and layer, whatever the number of heads.
    `q_rank` None means that queries are projected in one step (DeepSeek-V2-Lite). `gated_query` says that one
    matrix projects the queries and the output's gate, from two copies of the query's latent (A.X-K2).
    `extras` are further tensors of the block.
    Source: DeepSeek-V2, https://arxiv.org/abs/2405.04434, section 2.1.
    """

    hidden: int
    n_heads: int
    q_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    bias: bool = False
    gated_query: bool = False
    extras: tuple[Weight, ...] = ()

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Down- and up-projections; only the latter are dealt out by heads."""
        return (
            *self._query(),
            *linear("kv_a_proj_with_mqa", self.kv_rank + self.rope_dim, self.hidden, bias=self.bias),
            *norm("kv_a_layernorm", self.kv_rank),
            *linear(
                "kv_b_proj", self.n_heads * (self.nope_dim + self.value_dim), self.kv_rank, units=self.n_heads
            ),
            *row_linear(
                "o_proj", self.hidden, self.n_heads * self.value_dim, units=self.n_heads, bias=self.bias
            ),
            *self.extras,
        )

    def _query(self) -> tuple[Weight, ...]:
        width = self.n_heads * (self.nope_dim + self.rope_dim)
        if self.q_rank is None:
            return linear("q_proj", width, self.hidden, units=self.n_heads)
        name, into = "q_b_proj", self.q_rank
        if self.gated_query:
            name, into, width = "q_gate_proj", 2 * self.q_rank, width + self.n_heads * self.value_dim
        return (
            *linear("q_a_proj", self.q_rank, self.hidden, bias=self.bias),
            *norm("q_a_layernorm", self.q_rank),
            *linear(name, width, into, units=self.n_heads),
        )

    @property
    def cache(self) -> KvCache:
        """The latent and the shared rotary key; every rank needs all of it."""
        return KvCache(n_heads=1, key_dim=self.kv_rank + self.rope_dim, value_dim=0, latent=True)

    def score_flops(self, context: int) -> int:
        """In the absorbed form each head scores and sums over the latent."""
        return 2 * self.n_heads * (2 * self.kv_rank + self.rope_dim) * context
