"""Attention that reads a choice of tokens: an indexer beside a latent cache, compressed entries, patches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vram_planner.architecture.attention import AroundAttention, PlainMixer
from vram_planner.architecture.cache import KvCache, StateCache
from vram_planner.architecture.weight import Role, Weight, linear, norm, row_linear

if TYPE_CHECKING:
    from vram_planner.architecture.attention import FullAttention, Latent


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexer:
    """
    The lightning indexer of DeepSeek Sparse Attention: few narrow heads that score every earlier token.

    One key of `head_dim` a token serves all `n_heads` query heads, which are projected from the query's latent
    of `query_rank`. Every rank holds all of it. What weighs the heads is never quantised; of a quantised
    checkpoint vLLM also widens `wk` to 16 bits, and it keeps the norm in float32.
    Source: transformers models/deepseek_v32/modeling_deepseek_v32.py, DeepseekV32Indexer.
    """

    hidden: int
    query_rank: int
    n_heads: int
    head_dim: int

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Projections of queries, of the key, and of each head's weight in the score."""
        return (
            *linear("indexer.wq_b", self.n_heads * self.head_dim, self.query_rank),
            *linear("indexer.wk", self.head_dim, self.hidden),
            *norm("indexer.k_norm", self.head_dim, bias=True),
            *linear("indexer.weights_proj", self.n_heads, self.hidden, role=Role.ROUTER),
        )

    @property
    def cache(self) -> KvCache:
        """
        One key a token.

        vLLM and SGLang store it in FP8 with a float32 scale for each 128 elements (132 bytes), transformers
        in the model's own dtype.
        """
        return KvCache(n_heads=1, key_dim=self.head_dim, value_dim=0, latent=True)

    def score_flops(self, context: int) -> int:
        """Each head's product with every key: 2 · heads · head_dim · context."""
        return 2 * self.n_heads * self.head_dim * context


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseLatent(AroundAttention):
    """
    Latent attention that reads only the `top_k` tokens that an indexer chose (DeepSeek-V3.2, GLM-5).

    The cache still holds every token. `chooser` None takes over the choice of an earlier layer (GLM-5.2).
    Source: transformers models/glm_moe_dsa/modeling_glm_moe_dsa.py, GlmMoeDsaAttention.
    """

    inner: Latent
    top_k: int
    chooser: Indexer | None

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Those of the attention inside and of the indexer."""
        return (*self.inner.weights, *(self.chooser.weights if self.chooser is not None else ()))

    @property
    def cache(self) -> KvCache:
        """As inside: the choice is made anew for each token."""
        return self.inner.cache

    @property
    def indexer(self) -> KvCache | None:
        """The indexer's keys."""
        return None if self.chooser is None else self.chooser.cache

    def score_flops(self, context: int) -> int:
        """As inside, over at most `top_k` tokens, and the indexer's over all."""
        chosen = 0 if self.chooser is None else self.chooser.score_flops(context)
        return self.inner.score_flops(min(context, self.top_k)) + chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressor:
    """
    Folds each `stride` tokens into one entry of `width`, by a learned softmax over them.

    `overlap` makes each entry of the last two groups of tokens, from two series of projections (CSA);
    without it the groups stand apart (HCA).
    Source: transformers models/deepseek_v4/modeling_deepseek_v4.py, DeepseekV4CSACompressor and
    DeepseekV4HCACompressor.
    """

    hidden: int
    width: int
    stride: int
    overlap: bool
    prefix: str = "compressor."

    @property
    def series(self) -> int:
        """How many entries a token contributes to."""
        return 2 if self.overlap else 1

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Values, gates, a bias for each place in the group, the entry's norm."""
        wide, name = self.series * self.width, self.prefix
        return (
            *linear(f"{name}kv_proj", wide, self.hidden),
            *linear(f"{name}gate_proj", wide, self.hidden),
            Weight(name=f"{name}position_bias", shape=(self.stride, wide), role=Role.BIAS),
            *norm(f"{name}kv_norm", self.width),
        )

    @property
    def cache(self) -> KvCache:
        """One entry for each `stride` tokens, key and value in one."""
        return KvCache(n_heads=1, key_dim=self.width, value_dim=0, latent=True, stride=self.stride)

    @property
    def waiting_elements(self) -> int:
        """
        Most numbers that wait for their group to close: values and gates of stride − 1 tokens.

        With overlap one of the two series of the group before is kept too.
        Source: DeepseekV4HCACache.buffer_kv and DeepseekV4CSACache.overlap_kv.
        """
        open_group = 2 * self.series * self.width * (self.stride - 1)
        return open_group + (2 * self.width * self.stride if self.overlap else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedAttention(PlainMixer):
    """
    One shared head, key and value in one, over a short window and over compressed entries (DeepSeek-V4).

    Queries come from a latent of `q_rank`; the output goes through `out_groups` low-rank blocks of `out_rank`.
    `far` None leaves the window alone. `chooser_heads` is set where an indexer chooses `top_k` of the entries
    by keys of its own, made by the compressor `chooser`.
    Source: transformers models/deepseek_v4/modeling_deepseek_v4.py, DeepseekV4Attention and DeepseekV4Indexer.
    """

    hidden: int
    n_heads: int
    head_dim: int
    q_rank: int
    out_groups: int
    out_rank: int
    window: int
    far: Compressor | None = None
    chooser: Compressor | None = None
    chooser_heads: int = 0
    top_k: int | None = None

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Queries, the one key-value, grouped output, sinks, then compressor and indexer."""
        heads, width = self.n_heads, self.n_heads * self.head_dim
        return (
            *linear("q_a_proj", self.q_rank, self.hidden),
            *norm("q_a_norm", self.q_rank),
            *linear("q_b_proj", width, self.q_rank, units=heads),
            *linear("kv_proj", self.head_dim, self.hidden),
            *norm("kv_norm", self.head_dim),
            *linear(
                "o_a_proj", self.out_groups * self.out_rank, width // self.out_groups, units=self.out_groups
            ),
            *row_linear("o_b_proj", self.hidden, self.out_groups * self.out_rank, units=self.out_groups),
            Weight(name="sinks", shape=(heads,), role=Role.BIAS, units=heads),
            *(self.far.weights if self.far is not None else ()),
            *self._chooser_weights(),
        )

    def _chooser_weights(self) -> tuple[Weight, ...]:
        if self.chooser is None:
            return ()
        return (
            *self.chooser.weights,
            *linear("compressor.indexer.q_b_proj", self.chooser_heads * self.chooser.width, self.q_rank),
            *linear(
                "compressor.indexer.scorer.weights_proj", self.chooser_heads, self.hidden, role=Role.ROUTER
            ),
        )

    @property
    def cache(self) -> KvCache:
        """The window's entries, with the compressed ones beside them; every rank needs all of it."""
        far = None if self.far is None else self.far.cache
        return KvCache(
            n_heads=1, key_dim=self.head_dim, value_dim=0, latent=True, window=self.window, compressed=far
        )

    @property
    def state(self) -> StateCache | None:
        """What waits in the compressors for its group to close."""
        waiting = sum(one.waiting_elements for one in (self.far, self.chooser) if one is not None)
        if not waiting:
            return None
        return StateCache(kind="compressor", heads=1, state_elements=waiting, float32_state=True)

    @property
    def indexer(self) -> KvCache | None:
        """The indexer's keys, one for each compressed entry."""
        return None if self.chooser is None else self.chooser.cache

    def score_flops(self, context: int) -> int:
        """Scores and sum over window and chosen entries, and the indexer's scores over all entries."""
        entries, scored = 0, 0
        if self.far is not None:
            entries = context // self.far.stride
        if self.chooser is not None:
            scored = 2 * self.chooser_heads * self.chooser.width * entries
        if self.top_k is not None:
            entries = min(entries, self.top_k)
        seen = min(context, self.window) + entries
        return 4 * self.n_heads * self.head_dim * seen + scored


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchAttention(AroundAttention):
    """
    Attention over patches of tokens, about `stride` tokens each (the global layers of a byte latent transformer).

    How long patches really are depends on the text. Source: transformers models/blt/modeling_blt.py.
    """

    inner: FullAttention
    stride: int

    @property
    def cache(self) -> KvCache:
        """As inside, one entry a patch."""
        return replace(self.inner.cache, stride=self.stride)

    def score_flops(self, context: int) -> int:
        """As inside, over the patches, shared by the tokens of a patch."""
        return self.inner.score_flops(context // self.stride) // self.stride
