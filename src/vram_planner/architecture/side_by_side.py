"""Layers that keep both a cache and a state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vram_planner.architecture.attention import FullAttention, SlidingWindow
from vram_planner.architecture.cache import KvCache, StateCache
from vram_planner.architecture.recurrent import small
from vram_planner.architecture.weight import Weight, linear, row_linear

if TYPE_CHECKING:
    from vram_planner.architecture.attention import Mixer


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """
    Attention and a recurrent mixer in one layer (Falcon-H1, Zamba): the layer keeps a cache and a state.

    `extras` are tensors that join the two (Zamba's linear layer behind the shared block).
    Source: transformers models/falcon_h1/modeling_falcon_h1.py, FalconH1DecoderLayer.
    """

    attention: Mixer
    recurrent: Mixer
    extras: tuple[Weight, ...] = ()

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Those of both."""
        return (*self.recurrent.weights, *self.attention.weights, *self.extras)

    @property
    def n_heads(self) -> int:
        """Query heads of the attention."""
        return self.attention.n_heads

    @property
    def cache(self) -> KvCache | None:
        """The attention's."""
        return self.attention.cache

    @property
    def state(self) -> StateCache | None:
        """The recurrent mixer's."""
        return self.recurrent.state

    @property
    def indexer(self) -> KvCache | None:
        """The attention's."""
        return self.attention.indexer

    def score_flops(self, context: int) -> int:
        """That of both."""
        return self.attention.score_flops(context) + self.recurrent.score_flops(context)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolvedAttention:
    """
    Compressed convolutional attention (Zaya): queries and keys are convolved twice, half the values are a token late.

        Q = n_heads · head_dim    K = n_kv_heads · head_dim    C = Q + K
        weights   q Q·H + k K·H + two halves of v K·H + depthwise C·t0 + C + grouped C·head_dim·t1 + C
                  + a temperature a KV head + o_proj H·Q
        cache     as grouped-query attention
        state     K/2 late values, and the last t0 + t1 − 2 inputs of C channels

    Source: transformers models/zaya/modeling_zaya.py, ZayaCCAProjection.
    """

    hidden: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    depthwise: int
    grouped: int
    bias: bool = False
    window: int | None = None

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Dealt out by heads and KV heads; the convolutions mix both and are copied."""
        queries, keys = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        channels = queries + keys
        return (
            *linear("q_proj", queries, self.hidden, units=self.n_heads, bias=self.bias),
            *linear("k_proj", keys, self.hidden, units=self.n_kv_heads, bias=self.bias),
            *linear("v_proj_current", keys // 2, self.hidden, bias=self.bias),
            *linear("v_proj_delayed", keys // 2, self.hidden, bias=self.bias),
            *small("conv_qk_depthwise", channels, 1, self.depthwise),
            *small("conv_qk_depthwise.bias", channels),
            *small("conv_qk_grouped", channels, self.head_dim, self.grouped),
            *small("conv_qk_grouped.bias", channels),
            *small("temp", self.n_kv_heads),
            *row_linear("o_proj", self.hidden, queries, units=self.n_heads, bias=self.bias),
        )

    @property
    def _plain(self) -> FullAttention | SlidingWindow:
        full = FullAttention(
            hidden=self.hidden, n_heads=self.n_heads, n_kv_heads=self.n_kv_heads, head_dim=self.head_dim
        )
        return full if self.window is None else SlidingWindow(inner=full, window=self.window)

    @property
    def cache(self) -> KvCache:
        """As grouped-query attention."""
        return self._plain.cache

    @property
    def state(self) -> StateCache:
        """What the convolutions and the late half of the values look back at."""
        return StateCache(
            kind="convolved_attention",
            heads=self.n_kv_heads,
            state_elements=self.n_kv_heads * self.head_dim // 2,
            conv_channels=(self.n_heads + self.n_kv_heads) * self.head_dim,
            conv_tokens=self.depthwise + self.grouped - 2,
        )

    @property
    def indexer(self) -> KvCache | None:
        """None."""
        return None

    def score_flops(self, context: int) -> int:
        """As grouped-query attention."""
        return self._plain.score_flops(context)
