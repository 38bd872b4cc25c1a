"""
llama.cpp's graph of layers that keep a state.

Sources (b11434): src/models/mamba-base.cpp, src/models/delta-net-base.cpp, src/models/qwen3next.cpp,
src/llama-graph.cpp (build_rs: a state is gathered for each slot, and written back).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.recurrent import GatedDeltaNet, KimiDelta, Mamba, Mamba2, ShortConv
from vram_planner.engines.llama_cpp_linear import kimi_delta
from vram_planner.engines.llama_cpp_states import awaited, gathered, joined, states_chosen, written
from vram_planner.engines.llama_cpp_writer import unknown
from vram_planner.errors import UnsupportedArchitectureError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.cache import StateCache
    from vram_planner.engines.llama_cpp_writer import Writer

    Norm = Callable[[], int]

# Families that scale step, B and C by norms without weights (ssm_dt_b_c_rms).
_BARE_STEP_NORMS = ("falcon_mamba",)
# What CUDA's scan takes: states and multiples of the channels of a head (Mamba-2), or of all channels (Mamba).
_SCANNED_STATES, _SCANNED_HEADS = (96, 128, 256), 16
_SCANNED_MAMBA, _SCANNED_CHANNELS = 16, 128


def recurrent(writer: Writer, mixer: Mixer, norm: Norm) -> int:
    """
    The block's result; `norm` writes the norm before it.

    Raises UnsupportedArchitectureError for a kind that we do not know.
    """
    if isinstance(mixer, Mamba):
        return _mamba(writer, mixer, norm)
    if isinstance(mixer, Mamba2):
        return _mamba2(writer, mixer, norm)
    if isinstance(mixer, GatedDeltaNet):
        return _delta(writer, mixer, norm)
    if isinstance(mixer, KimiDelta):
        return kimi_delta(writer, mixer, norm)
    if isinstance(mixer, ShortConv):
        return _short_conv(writer, mixer, norm)
    raise unknown(mixer)


def _short_conv(writer: Writer, mixer: ShortConv, norm: Norm) -> int:
    """Three projections in one, two of them multiplied and convolved, the third multiplied in. Source: src/models/lfm2.cpp."""
    state, graph = mixer.state, writer.graph
    kept = gathered(writer, state.conv_channels * state.conv_tokens)
    _stream_awaited(writer)
    fed = writer.product("in_proj", 3 * state.conv_channels, norm())
    both = joined(writer, state, kept, writer.made(state.conv_channels, fed))
    convolved = graph.tensor(writer.row(state.conv_channels), both, *writer.weight("conv"))
    return writer.product("out_proj", mixer.hidden, graph.in_place(convolved, fed))


def _convolved(writer: Writer, state: StateCache, kept: int, fed: int) -> int:
    """Kept inputs and new ones in one tensor, the last of them written back, then the convolution."""
    both = joined(writer, state, kept, fed)
    return writer.graph.tensor(writer.row(state.conv_channels), both, *writer.weight("conv1d"))


def _check_scan(mixer: Mamba | Mamba2) -> None:
    """
    Refuse what CUDA has no scan for: the host would do it then, which is not modelled.

    Raises UnsupportedArchitectureError.
    Source (b11434): ggml/src/ggml-cuda/ggml-cuda.cu, ggml_backend_cuda_device_supports_op, GGML_OP_SSM_SCAN.
    """
    if isinstance(mixer, Mamba2):
        taken = mixer.state_size in _SCANNED_STATES and mixer.head_dim % _SCANNED_HEADS == 0
    else:
        taken = mixer.state_size == _SCANNED_MAMBA and mixer.inner % _SCANNED_CHANNELS == 0
    if not taken:
        raise UnsupportedArchitectureError(
            f"llama.cpp's CUDA backend has no scan for states of {mixer.state_size} with such heads; what the host "
            "would do in its place is not modelled",
            hint="choose another --engine",
        )


def _scanned(writer: Writer, mixer: Mamba | Mamba2, *sources: int) -> int:
    """The scan: outputs of every token and, behind them, the new states, which are written back."""
    _check_scan(mixer)
    state, graph = mixer.state, writer.graph
    new_states = 4 * state.state_elements * writer.setting.slots
    if "A_log" in writer.copies:
        # A result of one dimension counts as one row: too few to be worked out on the GPU with tensors of the host.
        writer.cached_on_host = max(
            writer.cached_on_host, sum(scan_inputs(writer, mixer)) + writer.row(mixer.inner) + new_states
        )
        graph.elsewhere(*sources)
        return graph.copied(writer.row(mixer.inner))
    old, rest = ((graph.copied(new_states),) if writer.cache_on_host else () for _ in range(2))
    scanned = graph.tensor(
        writer.row(mixer.inner) + new_states, *old, *sources, *writer.weight("A_log"), states_chosen(writer)
    )
    graph.expand(scanned)
    graph.nothing(*rest, writer.input("no other states", 0))
    written(writer, new_states, scanned)
    return scanned


def scan_inputs(writer: Writer, mixer: Mamba | Mamba2) -> tuple[int, ...]:
    """Bytes of x, step, B and C on the host; the copy of a view spans nearly all of what it views."""
    before = 4 * (writer.tokens - 1)
    if isinstance(mixer, Mamba2):
        channels, each = mixer.state.conv_channels, mixer.groups * mixer.state_size
        narrow = before * channels + 4 * each
        return before * channels + 4 * mixer.inner, writer.row(mixer.heads), narrow, narrow
    narrow = before * (mixer.step_rank + 2 * mixer.state_size) + 4 * mixer.state_size
    return writer.row(mixer.inner), writer.row(mixer.inner), narrow, narrow


def _summed(writer: Writer, scanned: int, skipped: int) -> int:
    """The scan's outputs are a view, unless they were copied from the host: then the sum is written over the copy."""
    over = (scanned, skipped) if "A_log" in writer.copies else (skipped,)
    return writer.graph.tensor(writer.graph.size(skipped), scanned, skipped, over=over)


def _gate(writer: Writer, inner: int, both: int) -> int:
    """
    A copy of the gate's half.

    At the end of a GPU's layers the next GPU makes it: its own layers' states come before it in the graph.
    """
    if not writer.hands_over:
        return writer.made(inner, both)
    writer.graph.elsewhere(both)
    return writer.arrival(writer.row(inner))


def taken_over(writer: Writer, mixer: Mamba | Mamba2) -> None:
    """What the next GPU does for the last layer of the one before: a gate, out of a copy of the whole projection."""
    whole = 2 * mixer.inner
    if isinstance(mixer, Mamba2):
        whole = mixer.inner + mixer.state.conv_channels + mixer.heads
    view = 4 * ((writer.tokens - 1) * whole + mixer.inner)
    writer.graph.use(writer.made(mixer.inner, writer.arrival(view)))


def _stream_awaited(writer: Writer) -> None:
    """The gate of the GPU before, then the end of its last layer."""
    if writer.gate_to_come is not None:
        taken_over(writer, writer.gate_to_come)
        writer.gate_to_come = None
    awaited(writer)


def _mamba(writer: Writer, mixer: Mamba, norm: Norm) -> int:
    graph, inner, state = writer.graph, mixer.inner, mixer.state
    kept = gathered(writer, state.conv_channels * state.conv_tokens)
    _stream_awaited(writer)
    both = writer.product("in_proj", 2 * inner, norm())
    convolved = graph.in_place(_convolved(writer, state, kept, both), *writer.weight("conv1d.bias"))
    convolved = graph.in_place(convolved)
    rank = mixer.step_rank
    selected = writer.product("x_proj", rank + 2 * mixer.state_size, convolved)
    normed = mixer.step_norms or writer.architecture.model_type in _BARE_STEP_NORMS
    step = writer.norm(selected, "dt_layernorm", rank, view=True) if normed else writer.made(rank, selected)
    step = graph.in_place(
        graph.tensor(writer.row(inner), *writer.weight("dt_proj"), step), *writer.weight("dt_proj.bias")
    )
    chosen: tuple[int, ...] = (selected,)
    if normed:
        names = ("b_layernorm", "c_layernorm")
        chosen = tuple(writer.norm(selected, name, mixer.state_size, view=True) for name in names)
    scanned = _scanned(writer, mixer, convolved, step, *chosen)
    gate = _gate(writer, inner, both)
    skipped = graph.tensor(writer.row(inner), convolved, *writer.weight("D"), over=(convolved,))
    gated = writer.made(inner, gate, _summed(writer, scanned, skipped))
    return writer.product("out_proj", mixer.hidden, gated)


def _mamba2(writer: Writer, mixer: Mamba2, norm: Norm) -> int:
    graph, inner, state = writer.graph, mixer.inner, mixer.state
    kept = gathered(writer, state.conv_channels * state.conv_tokens)
    _stream_awaited(writer)
    both = writer.product("in_proj", inner + state.conv_channels + mixer.heads, norm())
    convolved = graph.in_place(_convolved(writer, state, kept, both), *writer.weight("conv1d.bias"))
    convolved = graph.in_place(convolved)
    step = graph.in_place(writer.made(mixer.heads, both), *writer.weight("dt_bias"))
    scanned = _scanned(writer, mixer, convolved, step)
    gate = _gate(writer, inner, both)
    skipped = writer.made(inner, convolved, *writer.weight("D"))
    gated = writer.made(inner, gate, _summed(writer, scanned, skipped))
    if mixer.gated_norm:
        # Where the layer's own norm has that name too.
        name = "mixer.norm" if "mixer.norm" in writer.copies else "norm"
        gated = writer.norm(gated, name, inner, view=True)
    return writer.product("out_proj", mixer.hidden, gated)


def _delta(writer: Writer, mixer: GatedDeltaNet, norm: Norm) -> int:
    graph, state = writer.graph, mixer.state
    keys, values = mixer.key_heads * mixer.key_dim, mixer.value_heads * mixer.value_dim
    normed = norm()
    graph.expand(normed)
    kept = gathered(writer, state.conv_channels * state.conv_tokens)
    fed = writer.product("in_proj_qkv", state.conv_channels, normed)
    both = joined(writer, state, kept, fed)
    old = gathered(writer, state.state_elements)
    convolved = graph.in_place(graph.tensor(writer.row(state.conv_channels), both, *writer.weight("conv1d")))
    fused = "in_proj_ba" in mixer.fused
    query, key = (
        _unit(writer, convolved, keys, mixer.value_heads * mixer.key_dim if fused else None) for _ in range(2)
    )
    if fused:
        pair = writer.product("in_proj_ba", 2 * mixer.value_heads, normed)
        decay, correction = (writer.made(mixer.value_heads, pair) for _ in range(2))
        decay = graph.in_place(decay, *writer.weight("dt_bias"))
        correction = graph.in_place(correction)
    else:
        decay = writer.made(mixer.value_heads, writer.product("in_proj_a", mixer.value_heads, normed))
        correction = writer.made(mixer.value_heads, writer.product("in_proj_b", mixer.value_heads, normed))
    decay = graph.in_place(graph.in_place(decay), *writer.weight("A_log"))
    new_states = 4 * state.state_elements * writer.setting.slots
    ruled = graph.tensor(writer.row(values) + new_states, query, key, convolved, decay, correction, old)
    written(writer, new_states, ruled)
    scaled = writer.norm(ruled, "norm", values, view=True)
    gate = writer.made(values, writer.product("in_proj_z", values, normed))
    gated = graph.in_place(scaled, gate)
    return writer.product(mixer.out_name, mixer.hidden, gated)


def _unit(writer: Writer, convolved: int, keys: int, repeated: int | None) -> int:
    """Queries or keys scaled to unit length, then repeated for each value head of a group."""
    unit = writer.graph.in_place(writer.made(keys, convolved))
    return unit if repeated is None or repeated == keys else writer.made(repeated, unit)
