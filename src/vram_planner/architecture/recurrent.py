"""
Mixers that keep a state of fixed size instead of a cache that grows: Mamba, delta rules, linear attention, convolutions.

Their `cache` is None, their `state` what one sequence keeps. Others are in `rnn`, mixtures in `side_by_side`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vram_planner.architecture.cache import StateCache
from vram_planner.architecture.weight import MixedWeight, Role, Weight, linear, norm, row_linear

if TYPE_CHECKING:
    from vram_planner.architecture.cache import KvCache


class StateMixer:
    """The answers of a mixer that keeps a state and nothing else."""

    __slots__ = ()

    @property
    def n_heads(self) -> int:
        """1: tensor parallelism divides the heads of the state, `state.heads`, not query heads."""
        return 1

    @property
    def cache(self) -> KvCache | None:
        """None."""
        return None

    @property
    def indexer(self) -> KvCache | None:
        """None."""
        return None


def small(name: str, *shape: int, units: int = 1) -> tuple[Weight, ...]:
    """Decays, skips and convolutions: tensors that no format quantises."""
    return (Weight(name=name, shape=shape, role=Role.BIAS, units=units),)


def convolution(
    channels: int, kernel: int, *, units: int, bias: bool, name: str = "conv1d"
) -> tuple[Weight, ...]:
    """A causal convolution of `kernel` tokens, each channel by itself."""
    weight = small(name, channels, 1, kernel, units=units)
    return (*weight, *small(f"{name}.bias", channels, units=units)) if bias else weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba(StateMixer):
    """
    A selective state space, one state of `state_size` for each of `inner` channels.

        I = inner    N = state_size    R = step_rank
        weights   in_proj 2·I·H + conv1d I·K + x_proj (R + 2·N)·I + dt_proj I·R + A_log I·N + D I + out_proj H·I
        state     I·N, and the last K − 1 inputs of I channels

    `heads` are Zamba's, which cut the channels for x_proj and dt_proj only; `step_norms` are Jamba's norms
    on step, B and C. vLLM holds A_log in float32.
    Source: transformers models/mamba/modeling_mamba.py, MambaMixer; models/jamba, models/zamba.
    """

    hidden: int
    inner: int
    state_size: int
    step_rank: int
    kernel: int
    conv_bias: bool = True
    bias: bool = False
    step_norms: bool = False
    heads: int = 1

    @property
    def weights(self) -> tuple[Weight, ...]:
        """All are dealt out by channels; x_proj along its inputs."""
        inner, rank, n = self.inner, self.step_rank, self.state_size
        norms = (*norm("dt_layernorm", rank), *norm("b_layernorm", n), *norm("c_layernorm", n))
        return (
            *linear("in_proj", 2 * inner, self.hidden, units=inner, bias=self.bias),
            *convolution(inner, self.kernel, units=inner, bias=self.conv_bias),
            *self._by_head("x_proj", rank + 2 * n, inner // self.heads),
            *self._by_head("dt_proj", inner // self.heads, rank),
            *small("dt_proj.bias", inner, units=inner),
            *small("A_log", inner, n, units=inner),
            *small("D", inner, units=inner),
            *row_linear("out_proj", self.hidden, inner, units=inner, bias=self.bias),
            *(norms if self.step_norms else ()),
        )

    def _by_head(self, name: str, out: int, into: int) -> tuple[Weight, ...]:
        if self.heads == 1:
            return linear(name, out, into, units=self.inner)
        return small(f"{name}_weight", self.heads, out, into, units=self.inner)

    @property
    def state(self) -> StateCache:
        """Channels count as heads: they are dealt out."""
        return StateCache(
            kind="mamba",
            heads=self.inner,
            state_elements=self.inner * self.state_size,
            conv_channels=self.inner,
            conv_tokens=self.kernel - 1,
        )

    def score_flops(self, context: int) -> int:  # noqa: ARG002  the same at any length
        """Decay, input and output of the state: 5 a number."""
        return 5 * self.inner * self.state_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2(StateMixer):
    """
    Mamba-2: `heads` of `head_dim` channels, each with a state of head_dim × state_size; B and C in `groups`.

        I = inner (heads · head_dim)    G = groups    N = state_size    C = I + 2·G·N (what is convolved)
        weights   in_proj (I + C + heads)·H + conv1d C·K + A_log, D, dt_bias heads each + norm I + out_proj H·I
        state     heads · head_dim · N, and the last K − 1 inputs of C channels

    `float32_state` as the config asks (Nemotron-H: mamba_ssm_cache_dtype). vLLM holds A_log in float32.
    Source: transformers models/mamba2/modeling_mamba2.py, Mamba2Mixer; Bamba, Granite 4, Falcon-H1, Nemotron-H,
    Zamba 2 have the same tensors.
    """

    hidden: int
    inner: int
    heads: int
    head_dim: int
    groups: int
    state_size: int
    kernel: int
    conv_bias: bool = True
    bias: bool = False
    out_bias: bool = False
    gated_norm: bool = True
    float32_state: bool = False

    @property
    def _grouped(self) -> int:
        return 2 * self.groups * self.state_size

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Dealt out by heads, but B and C by groups: with fewer groups than ranks each rank copies one."""
        inner, heads, grouped = self.inner, self.heads, self._grouped
        fed = ((2 * inner, heads), (grouped, self.groups), (heads, heads))
        convolved = ((inner, heads), (grouped, self.groups))
        rows, channels = 2 * inner + grouped + heads, inner + grouped
        in_proj = [MixedWeight(name="in_proj", shape=(rows, self.hidden), role=Role.LINEAR, parts=fed)]
        conv = [MixedWeight(name="conv1d", shape=(channels, 1, self.kernel), role=Role.BIAS, parts=convolved)]
        if self.bias:
            in_proj.append(MixedWeight(name="in_proj.bias", shape=(rows,), role=Role.BIAS, parts=fed))
        if self.conv_bias:
            conv.append(MixedWeight(name="conv1d.bias", shape=(channels,), role=Role.BIAS, parts=convolved))
        gate = (Weight(name="norm", shape=(inner,), role=Role.NORM, units=heads),)
        return (
            *in_proj,
            *conv,
            *(vector for name in ("A_log", "D", "dt_bias") for vector in small(name, heads, units=heads)),
            *(gate if self.gated_norm else ()),
            *row_linear("out_proj", self.hidden, inner, units=heads, bias=self.out_bias),
        )

    @property
    def state(self) -> StateCache:
        """One matrix a head; the channels of B and C are shared within a group."""
        return StateCache(
            kind="mamba2",
            heads=self.heads,
            state_elements=self.heads * self.head_dim * self.state_size,
            conv_channels=self.inner + self._grouped,
            conv_tokens=self.kernel - 1,
            group_channels=self._grouped,
            groups=self.groups,
            float32_state=self.float32_state,
        )

    def score_flops(self, context: int) -> int:  # noqa: ARG002  the same at any length
        """Decay, input and output of the state: 5 a number."""
        return 5 * self.heads * self.head_dim * self.state_size


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedDeltaNet(StateMixer):
    """
    The gated delta rule: one key_dim × value_dim matrix for each value head, corrected with every token.

        A = key_heads · key_dim    V = value_heads · value_dim    C = 2·A + V (what is convolved)
        weights   queries, keys, values C·H + gate V·H + two scalars a head 2·value_heads·H + conv1d C·K
                  + A_log, dt_bias value_heads each + norm value_dim + out_proj H·V
        state     value_heads · key_dim · value_dim, and the last K − 1 inputs of C channels

    `fused` names the matrices as a checkpoint stores them: "qkvz" and "ba" (Qwen3-Next), "qkv", "z", "b", "a"
    (Qwen3.5) or each by itself (OLMo Hybrid). vLLM holds A_log in float32.
    Source: transformers models/qwen3_next/modeling_qwen3_next.py, Qwen3NextGatedDeltaNet.
    """

    hidden: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    fused: tuple[str, ...]
    out_name: str = "out_proj"
    float32_state: bool = False

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Dealt out by key heads, with which the value heads go; the norm is over one head."""
        heads, values = self.value_heads, self.value_heads * self.value_dim
        return (
            *self._projections(),
            *convolution(self._convolved, self.kernel, units=self.key_heads, bias=False),
            *(vector for name in ("A_log", "dt_bias") for vector in small(name, heads, units=heads)),
            *norm("norm", self.value_dim),
            *row_linear(self.out_name, self.hidden, values, units=heads),
        )

    @property
    def _convolved(self) -> int:
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    def _projections(self) -> tuple[Weight, ...]:
        keys, values = self.key_heads * self.key_dim, self.value_heads * self.value_dim
        each = {"q": keys, "k": keys, "v": values, "z": values, "g": values}
        found: list[Weight] = []
        for name in self.fused:
            letters = name.removeprefix("in_proj_").removesuffix("_proj")
            rows = sum(each.get(letter, self.value_heads) for letter in letters)
            units = self.value_heads if letters in ("a", "b", "ba") else self.key_heads
            found += linear(name, rows, self.hidden, units=units)
        return tuple(found)

    @property
    def state(self) -> StateCache:
        """One matrix a value head."""
        return StateCache(
            kind="gated_delta",
            heads=self.value_heads,
            state_elements=self.value_heads * self.key_dim * self.value_dim,
            conv_channels=self._convolved,
            conv_tokens=self.kernel - 1,
            float32_state=self.float32_state,
        )

    def score_flops(self, context: int) -> int:  # noqa: ARG002  the same at any length
        """Read, correction and output of the state: 7 a number."""
        return 7 * self.value_heads * self.key_dim * self.value_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class KimiDelta(StateMixer):
    """
    Kimi delta attention (KDA): the delta rule with a decay of its own for each channel of the keys.

        A = heads · head_dim
        weights   q, k, v 3·A·H + conv1d 3·A·K + decay and output gate + b heads·H + A_log heads + dt_bias A
                  + norm head_dim + o_proj H·A
        state     heads · head_dim², in float32, and the last K − 1 inputs of 3·A channels

    Decay and gate are A·H each, or go through `gate_rank`: rank·H + A·rank (Kimi Linear: head_dim).
    `full_gate` is the output gate of full rank beside a decay of low rank (Kimi K3).
    Source: transformers models/kimi_linear/modeling_kimi_linear.py, KimiLinearDeltaAttention; models/bailing_hybrid.
    """

    hidden: int
    heads: int
    head_dim: int
    kernel: int
    gate_rank: int | None
    full_gate: bool = False

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Dealt out by heads, but for the inner side of the low-rank gates and the norm over one head."""
        width, heads = self.heads * self.head_dim, self.heads
        return (
            *(
                w
                for name in ("q_proj", "k_proj", "v_proj")
                for w in linear(name, width, self.hidden, units=heads)
            ),
            *convolution(3 * width, self.kernel, units=heads, bias=False),
            *self._gate("f", self.gate_rank),
            *linear("b_proj", heads, self.hidden, units=heads),
            *self._gate("g", None if self.full_gate else self.gate_rank),
            *small("A_log", heads, units=heads),
            *small("dt_bias", width, units=heads),
            *norm("o_norm", self.head_dim),
            *row_linear("o_proj", self.hidden, width, units=heads),
        )

    def _gate(self, letter: str, rank: int | None) -> tuple[Weight, ...]:
        width = self.heads * self.head_dim
        if rank is None:
            return linear(f"{letter}_proj", width, self.hidden, units=self.heads)
        return (
            *linear(f"{letter}_a_proj", rank, self.hidden),
            *linear(f"{letter}_b_proj", width, rank, units=self.heads),
        )

    @property
    def state(self) -> StateCache:
        """One square matrix a head."""
        return StateCache(
            kind="kimi_delta",
            heads=self.heads,
            state_elements=self.heads * self.head_dim**2,
            conv_channels=3 * self.heads * self.head_dim,
            conv_tokens=self.kernel - 1,
            float32_state=True,
        )

    def score_flops(self, context: int) -> int:  # noqa: ARG002  the same at any length
        """Read, correction and output of the state: 7 a number."""
        return 7 * self.heads * self.head_dim**2


@dataclass(frozen=True, slots=True, kw_only=True)
class LightningAttention(StateMixer):
    """
    Linear attention with a fixed decay a head (MiniMax-01, M1): the sum of key·valueᵀ over all tokens.

        A = heads · head_dim
        weights   qkv_proj 3·A·H + output_gate A·H + out_proj H·A + norm A
        state     heads · head_dim²

    transformers' tables of decays, which are buffers, can be computed; no published checkpoint has them.
    Source: transformers models/minimax/modeling_minimax.py, MiniMaxLightningAttention.
    """

    hidden: int
    heads: int
    head_dim: int

    @property
    def weights(self) -> tuple[Weight, ...]:
        """All are dealt out by heads."""
        width, heads = self.heads * self.head_dim, self.heads
        return (
            *linear("qkv_proj", 3 * width, self.hidden, units=heads),
            *linear("output_gate", width, self.hidden, units=heads),
            *row_linear("out_proj", self.hidden, width, units=heads),
            Weight(name="norm", shape=(width,), role=Role.NORM, units=heads),
        )

    @property
    def state(self) -> StateCache:
        """One square matrix a head."""
        return StateCache(kind="linear", heads=self.heads, state_elements=self.heads * self.head_dim**2)

    def score_flops(self, context: int) -> int:  # noqa: ARG002  the same at any length
        """Decay, input and output of the state: 5 a number."""
        return 5 * self.heads * self.head_dim**2


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortConv(StateMixer):
    """
    A gated convolution over the last `kernel` tokens (LFM2): no recurrent state at all.

        weights   in_proj 3·H·H + conv H·K + out_proj H·H
        state     the last K − 1 inputs of H channels

    Source: transformers models/lfm2/modeling_lfm2.py, Lfm2ShortConv.
    """

    hidden: int
    kernel: int
    bias: bool = False

    @property
    def weights(self) -> tuple[Weight, ...]:
        """All are dealt out by channels."""
        hidden = self.hidden
        return (
            *linear("in_proj", 3 * hidden, hidden, units=hidden, bias=self.bias),
            *convolution(hidden, self.kernel, units=hidden, bias=self.bias, name="conv"),
            *row_linear("out_proj", hidden, hidden, units=hidden, bias=self.bias),
        )

    @property
    def state(self) -> StateCache:
        """The convolution's inputs."""
        return StateCache(
            kind="short_conv",
            heads=self.hidden,
            state_elements=0,
            conv_channels=self.hidden,
            conv_tokens=self.kernel - 1,
        )

    def score_flops(self, context: int) -> int:  # noqa: ARG002  the same at any length
        """Two gates a channel."""
        return 2 * self.hidden
