"""Recurrent mixers of an older or rarer kind: RWKV, xLSTM's matrix memory, RecurrentGemma's linear recurrent unit."""

from __future__ import annotations

from dataclasses import dataclass

from vram_planner.architecture.cache import StateCache
from vram_planner.architecture.recurrent import StateMixer, convolution, small
from vram_planner.architecture.weight import Role, Weight, linear, row_linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Rwkv(StateMixer):
    """
    RWKV-4's time mixing: an exponentially decaying average for each of `inner` channels.

        weights   key, value, receptance 3·A·H + output H·A + decay and bonus 2·A + three mixing vectors 3·H
        state     numerator, denominator and maximum 3·A in float32, and the last token's input of this block
                  and of the channel mixing behind it, 2·H

    Source: transformers models/rwkv/modeling_rwkv.py, RwkvSelfAttention and rwkv_linear_attention_cpu.
    """

    hidden: int
    inner: int

    @property
    def weights(self) -> tuple[Weight, ...]:
        """All but the mixing vectors are dealt out by channels."""
        inner = self.inner
        return (
            *(vector for name in ("time_decay", "time_first") for vector in small(name, inner, units=inner)),
            *(
                vector
                for name in ("key", "value", "receptance")
                for vector in small(f"time_mix_{name}", self.hidden)
            ),
            *(
                w
                for name in ("key", "value", "receptance")
                for w in linear(name, inner, self.hidden, units=inner)
            ),
            *row_linear("output", self.hidden, inner, units=inner),
        )

    @property
    def state(self) -> StateCache:
        """Two shifted tokens count as a convolution of one past token."""
        return StateCache(
            kind="rwkv",
            heads=self.inner,
            state_elements=3 * self.inner,
            conv_channels=2 * self.hidden,
            conv_tokens=1,
            float32_state=True,
        )

    def score_flops(self, context: int) -> int:  # noqa: ARG002  the same at any length
        """Decay and add, for numerator and denominator."""
        return 6 * self.inner


@dataclass(frozen=True, slots=True, kw_only=True)
class RwkvChannelMix:
    """
    RWKV's feed-forward block: key I·H, value H·I, receptance H·H and two mixing vectors.

    Its one remembered token is counted in the state of the time mixing before it.
    Source: transformers models/rwkv/modeling_rwkv.py, RwkvFeedForward.
    """

    hidden: int
    intermediate: int

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Key and value are dealt out along the intermediate dimension."""
        hidden, width = self.hidden, self.intermediate
        return (
            *small("time_mix_key", hidden),
            *small("time_mix_receptance", hidden),
            *linear("key", width, hidden, units=width),
            *linear("receptance", hidden, hidden),
            *row_linear("value", hidden, width, units=width),
        )

    @property
    def active_share(self) -> tuple[int, int]:
        """All of it."""
        return (1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixLstm(StateMixer):
    """
    xLSTM's mLSTM: a key_width × value_width memory, cut into `heads`, with exponential gates.

        A = key_width    V = value_width
        weights   q, k 2·A·H + v, output gate 2·V·H + two gates a head 2·heads·(H + 1) + norm V + out_proj H·V
        state     A·V/heads + A + heads, in float32 as the config asks (inference_state_dtype)

    Source: transformers models/xlstm/modeling_xlstm.py, xLSTMLayer and xLSTMCache.
    """

    hidden: int
    heads: int
    key_width: int
    value_width: int
    bias: bool = False
    float32_state: bool = True

    @property
    def weights(self) -> tuple[Weight, ...]:
        """All are dealt out by heads."""
        heads, norm = self.heads, Weight(name="multihead_norm", shape=(self.value_width,), role=Role.NORM)
        wide = {
            "q": self.key_width,
            "k": self.key_width,
            "v": self.value_width,
            "ogate_preact": self.value_width,
        }
        return (
            *(
                w
                for name, rows in wide.items()
                for w in linear(name, rows, self.hidden, units=heads, bias=self.bias)
            ),
            *linear("igate_preact", heads, self.hidden, units=heads, bias=True),
            *linear("fgate_preact", heads, self.hidden, units=heads, bias=True),
            norm,
            *(small("multihead_norm.bias", self.value_width) if self.bias else ()),
            *row_linear("out_proj", self.hidden, self.value_width, units=heads, bias=self.bias),
        )

    @property
    def state(self) -> StateCache:
        """Memory, normaliser and maximum."""
        elements = self.key_width * self.value_width // self.heads + self.key_width + self.heads
        return StateCache(
            kind="mlstm", heads=self.heads, state_elements=elements, float32_state=self.float32_state
        )

    def score_flops(self, context: int) -> int:  # noqa: ARG002  the same at any length
        """Decay, input and output of the memory: 5 a number."""
        return 5 * self.key_width * self.value_width // self.heads


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearRecurrentUnit(StateMixer):
    """
    RecurrentGemma's block: a short convolution and a gated linear recurrence (RG-LRU) of `width` channels.

        W = width
        weights   linear_x, linear_y 2·(W·H + W) + linear_out H·W + H + conv W·K + W + two gates
                  2·(W²/heads + W) + W
        state     W in float32, and the last K − 1 inputs of W channels

    Source: transformers models/recurrent_gemma/modeling_recurrent_gemma.py, RecurrentGemmaRecurrentBlock.
    """

    hidden: int
    width: int
    heads: int
    kernel: int

    @property
    def weights(self) -> tuple[Weight, ...]:
        """All are dealt out by heads: the gates are block-diagonal."""
        width, heads = self.width, self.heads
        block = width // heads
        return (
            *linear("linear_y", width, self.hidden, units=heads, bias=True),
            *linear("linear_x", width, self.hidden, units=heads, bias=True),
            *row_linear("linear_out", self.hidden, width, units=heads, bias=True),
            *convolution(width, self.kernel, units=heads, bias=True, name="conv_1d"),
            *small("recurrent_param", width, units=heads),
            *(
                w
                for name in ("input_gate", "recurrent_gate")
                for w in (
                    *small(f"{name}_weight", heads, block, block, units=heads),
                    *small(f"{name}_bias", heads, block, units=heads),
                )
            ),
        )

    @property
    def state(self) -> StateCache:
        """One number a channel."""
        return StateCache(
            kind="rg_lru",
            heads=self.heads,
            state_elements=self.width,
            conv_channels=self.width,
            conv_tokens=self.kernel - 1,
            float32_state=True,
        )

    def score_flops(self, context: int) -> int:  # noqa: ARG002  the same at any length
        """Decay, scaled input and sum of each channel."""
        return 4 * self.width
