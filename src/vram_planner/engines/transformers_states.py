"""
Live bytes of recurrent mixers in transformers without extra kernels: the torch code, in float32 and by chunks.

Symbols: T query tokens (padded to whole chunks), b bytes of an activation, h heads, p and n width and depth of
a head's state, c chunk. With the packages mamba-ssm, causal-conv1d and flash-linear-attention less is needed:
`fused_bytes`. Source: transformers 5.23.0, models/{mamba,granitemoehybrid,qwen3_next,kimi_linear,lfm2}/modeling_*.py,
https://github.com/huggingface/transformers/tree/v5.23.0/src/transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.recurrent import (
    GatedDeltaNet,
    KimiDelta,
    LightningAttention,
    Mamba,
    Mamba2,
    ShortConv,
)
from vram_planner.engines.transformers_pass import FLOAT_BYTES, Pass, rounded
from vram_planner.errors import UnsupportedArchitectureError

if TYPE_CHECKING:
    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.cache import StateCache

_DELTA_CHUNK = 64
_SHORT_CONV_TENSORS = (
    7  # three projections in one, their product, the convolved one, the gated one and its copy
)
_LIGHTNING_BLOCK = 256


def padded(step: Pass, chunk: int) -> int:
    """Tokens of the batch when each request is filled up to whole chunks."""
    return step.batch * -(-step.new // chunk) * chunk


def recurrent_bytes(mixer: Mixer, step: Pass, chunk: int) -> int:
    """Peak of a recurrent mixer beyond its input and the states of all layers."""
    if step.fused and mixer.state is not None:
        return fused_bytes(mixer, mixer.state, step)
    if isinstance(mixer, Mamba | Mamba2):
        return _mamba(mixer, step) if isinstance(mixer, Mamba) else _mamba2(mixer, step, chunk)
    if isinstance(mixer, GatedDeltaNet):
        return _gated_delta(mixer, step)
    if isinstance(mixer, KimiDelta | LightningAttention):
        return _kimi_delta(mixer, step) if isinstance(mixer, KimiDelta) else _lightning(mixer, step)
    if isinstance(mixer, ShortConv):
        return _SHORT_CONV_TENSORS * step.size(step.tokens * mixer.hidden)
    raise UnsupportedArchitectureError(
        f"the transformers engine does not know the layer {type(mixer).__name__}", hint="use --engine vllm"
    )


def fused_bytes(mixer: Mixer, state: StateCache, step: Pass) -> int:
    """With fused kernels, at least: what is projected, what is convolved, and the output, in the activations' dtype."""
    inner = mixer.inner if isinstance(mixer, Mamba | Mamba2) else state.conv_channels
    return step.size(step.tokens * (state.conv_channels + 2 * inner)) + step.size(
        step.tokens * state.conv_channels
    )


def _mamba(mixer: Mamba, step: Pass) -> int:
    """
    mamba_selective_scan, one token after the other: three float32 tensors of T · I · N, and the outputs of each token.

    Beside them the projection (2 I), the convolved input twice, softplus(step), the stacked output, and in
    float32 the skip and the sum. At decode five states in float32, and A. I channels, N their state. Zamba's heads
    are computed one after the other.
    """
    wide, n = mixer.inner // mixer.heads, mixer.state_size
    if step.past:
        return 5 * step.floats(step.batch * wide * n) + step.floats(wide * n)
    projected = 4 * step.size(step.tokens * mixer.inner)
    outputs = step.new * step.size(step.batch * wide) + 2 * step.size(step.tokens * wide)
    floats = 3 * step.floats(step.tokens * wide * n) + 2 * step.floats(step.tokens * wide)
    return projected + outputs + floats


def _mamba2(mixer: Mamba2, step: Pass, chunk: int) -> int:
    """
    mamba2_chunk_scan: decays, scores and their product, T · h · c each; B, C and the decayed B, T · h · n each.

    The largest of three moments: the scores' copy for the output within a chunk; C's copy for the output from
    states; the sum of both outputs with the skip. Alive through all of them: the projection and what was convolved.
    At decode the decay, the state's product and the sum in float32, B·dt and its product with x in the model's dtype.
    """
    states = mixer.heads * mixer.head_dim * mixer.state_size
    if step.past:
        return 3 * step.floats(step.batch * states) + 2 * step.size(step.batch * states)
    tokens = padded(step, chunk)
    chunks = tokens // chunk
    convolved = mixer.inner + 2 * mixer.groups * mixer.state_size
    kept = step.size(step.tokens * (mixer.inner + convolved + mixer.heads)) + step.size(
        step.tokens * convolved
    )
    scores = step.floats(tokens * mixer.heads * chunk)
    keys = step.floats(tokens * mixer.heads * mixer.state_size)
    values = step.floats(tokens * mixer.inner)
    bounds = step.floats((chunks + step.batch) * states)
    return kept + max(
        4 * scores + 2 * keys + 4 * values,
        3 * scores + 4 * keys + 4 * values + bounds + step.floats(chunks * states),
        3 * scores + 3 * keys + 7 * values + bounds,
    )


def _gated_delta(mixer: GatedDeltaNet, step: Pass) -> int:
    """
    torch_chunk_gated_delta_rule, as its output is put together: five tensors of keys, five of values, three of T · h · 64.

    q and k with their decays, β·k, its decayed form and the solved one; v, β·v, the solved one, output and its
    copy. Beside them what was convolved, and the gate where it is projected before (in one matrix, or as "z").
    At decode three states in float32.
    """
    states = mixer.value_heads * mixer.key_dim * mixer.value_dim
    if step.past:
        return 3 * step.floats(step.batch * states)
    tokens = padded(step, _DELTA_CHUNK)
    values = mixer.value_heads * mixer.value_dim
    convolved = 2 * mixer.key_heads * mixer.key_dim + values
    kept = step.size(step.tokens * convolved)
    if any("qkvz" in name for name in mixer.fused):
        kept += step.size(step.tokens * (convolved + values)) + step.size(step.tokens * values)
    elif any(name.removeprefix("in_proj_") == "z" for name in mixer.fused):
        kept += step.size(step.tokens * values)
    keys = step.floats(tokens * mixer.value_heads * mixer.key_dim)
    pairs = step.floats(tokens * mixer.value_heads * _DELTA_CHUNK)
    return kept + 5 * keys + 5 * step.floats(tokens * values) + 3 * pairs + step.floats(step.batch * states)


def _kimi_delta(mixer: KimiDelta, step: Pass) -> int:
    """
    The delta rule with a decay a channel: three tensors of T · h · 64 · d, decays between every two tokens of a chunk.

    Beside them seven of T · h · d in float32 and what was convolved. At decode three states.
    """
    width = mixer.heads * mixer.head_dim
    if step.past:
        return 3 * step.floats(step.batch * width * mixer.head_dim)
    tokens = padded(step, _DELTA_CHUNK)
    kept = step.size(step.tokens * 3 * width) + 7 * step.floats(tokens * width)
    return kept + 3 * step.floats(tokens * width * _DELTA_CHUNK)


def _lightning(mixer: LightningAttention, step: Pass) -> int:
    """Projection and its activation (3 A each), the outputs of all blocks, and the scores of one block of 256."""
    width = mixer.heads * mixer.head_dim
    if step.past:
        return 3 * step.size(step.batch * width * mixer.head_dim)
    block = min(step.new, _LIGHTNING_BLOCK)
    scores = step.batch * mixer.heads * block * block
    return (
        2 * step.size(step.tokens * 3 * width)
        + 2 * step.size(step.tokens * width)
        + 3 * rounded(scores * FLOAT_BYTES)
    )
