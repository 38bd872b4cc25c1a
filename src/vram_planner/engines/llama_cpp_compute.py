"""llama.cpp's compute buffers: the graph of the largest micro-batch, laid out as ggml's allocator does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.attention import BorrowedKv, NoMixer
from vram_planner.architecture.cross import BlockSparse
from vram_planner.architecture.feed_forward import DenseMLP, MixtureOfExperts, NoFeedForward
from vram_planner.architecture.gguf import rope_factor_bytes
from vram_planner.architecture.recurrent import Mamba, Mamba2, ShortConv
from vram_planner.architecture.side_by_side import SideBySide
from vram_planner.engines.llama_cpp_graph import (
    LEARNED_POSITIONS,
    NORMED_RESIDUALS,
    GraphBuilder,
)
from vram_planner.engines.llama_cpp_kernels import reads_own_types
from vram_planner.engines.llama_cpp_layout import HOST, copied_weights, device_of, is_experts
from vram_planner.engines.llama_cpp_stage import Stage, Step, turns
from vram_planner.engines.llama_cpp_watched import graph_peak, watched_answer
from vram_planner.engines.llama_cpp_writer import COPIES, ONCE
from vram_planner.units import round_up

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vram_planner.architecture.gguf import GgufMix
    from vram_planner.architecture.model import Architecture, Layer
    from vram_planner.engines.llama_cpp_layout import Setting

_HOST_ALIGNMENT = 32
# Gemma 3n's first ten layers. Source: src/models/models.h, n_layer_sparsity.
_CUTTING_OFF, _FIRST_CUTTING_OFF = "gemma3n", 10
_MOST_KEPT = 256
_MOST_READ_AS_STORED = 2  # tokens a stream
_FEWEST = 4
_LONGEST_PERIOD = 12


def compute_bytes(architecture: Architecture, mix: GgufMix, setting: Setting, device: int = 0) -> int:
    """
    Bytes of the compute buffer of one GPU, or of the host, at their most while it serves.

    That is what llama.cpp reserves at its start, but for two families and for caches that flash attention reads as they are
    where each slot has a token or two of the micro-batch: one slot's prompt fills it, and then that slot's cache is copied
    to halves. MiniMax-01's graph of one slot's tokens alone is
    larger than that of all slots, and reserved after it (src/llama-context.cpp, TAG_RESERVE_DIAG_DECAY; without
    allocations only the first is counted). MiniMax-M3's graph grows with the positions in its cache
    (src/llama-kv-cache-msa.cpp, get_n_pos).
    """
    return max(reserved_bytes(architecture, mix, one, device) for one in _served(architecture, setting))


def _served(architecture: Architecture, setting: Setting) -> tuple[Setting, ...]:
    found = [setting]
    few = setting.streams > 1 and setting.tokens <= _MOST_READ_AS_STORED * setting.streams
    if setting.slots > 1 and (
        architecture.model_type in NORMED_RESIDUALS or (few and reads_own_types(setting))
    ):
        # All tokens of the micro-batch are one slot's; a unified cache has all cells for it.
        cells = max(setting.stream_cells, setting.fed)
        found.append(replace(setting, slots=1, context=cells))
    if any(isinstance(layer.mixer, BlockSparse) for layer, _ in architecture.groups):
        found += [replace(one, grown=True) for one in found]
    return tuple(found)


def reserved_bytes(architecture: Architecture, mix: GgufMix, setting: Setting, device: int = 0) -> int:
    """
    Bytes that llama.cpp reserves for a micro-batch of `setting.tokens`, as it says in its log.

    The last answers are kept beside the architecture.
    """
    kept: dict[tuple[object, ...], int] = vars(architecture).setdefault("_llama_cpp_compute", {})
    key = (setting, device, mix.name if copies_weights(architecture, setting) else "")
    if key not in kept:
        if len(kept) >= _MOST_KEPT:
            kept.clear()
        kept[key] = (
            _host(architecture, mix, setting) if device == HOST else _gpu(architecture, mix, setting, device)
        )
    return kept[key]


def copies_weights(architecture: Architecture, setting: Setting) -> bool:
    """Whether tensors lie on the host that a GPU works with."""
    moved = setting.moe_on_host > 0 or bool(setting.overrides)
    return moved or not setting.all_on_gpus(len(architecture.layers))


def _gpu(architecture: Architecture, mix: GgufMix, setting: Setting, device: int) -> int:
    if setting.gpus > 1 and (setting.overrides or setting.moe_on_host):
        from vram_planner.engines.llama_cpp_spread import is_spread, spread_bytes  # noqa: PLC0415  seldom needed

        if is_spread(architecture, mix, setting):
            return spread_bytes(architecture, mix, setting)[device]
    stage = _stage(architecture, mix, setting, device)
    if not stage.steps and not stage.last:  # fewer offloaded layers than GPUs
        return 0
    return graph_peak(architecture, setting, stage)


def _host(architecture: Architecture, mix: GgufMix, setting: Setting) -> int:
    if copies_weights(architecture, setting):
        return _on_host(architecture, mix, setting)
    # Where all is on GPUs the first stage tells the file and how the layers are shared out.
    stage = _stage(architecture, mix, setting, 0)
    return watched_answer(
        architecture, stage, "host", setting, lambda read: _on_host(architecture, mix, read)
    )


def _on_host(architecture: Architecture, mix: GgufMix, setting: Setting) -> int:
    """
    What lies on the host: inputs for good, the embedded tokens, and what is sent to a cache there.

    A second input for embedded tokens is reserved though it is not used. A pipeline has four of each input.
    """
    inputs: dict[str, int] = {}
    cached = 0
    for device in range(setting.gpus):
        builder = GraphBuilder(architecture, setting, inputs)
        builder.peak(_stage(architecture, mix, setting, device))
        cached = max(cached, builder.writer.cached_on_host)
    embedded = looked_up = 4 * architecture.hidden * setting.tokens
    if any(weight.name == LEARNED_POSITIONS for weight in architecture.embedding_extras):
        looked_up += embedded
        inputs["positions"] = round_up(4 * setting.tokens, _HOST_ALIGNMENT)
    copies = COPIES if setting.pipelined(len(architecture.layers)) else 1
    single = [name for name in inputs if name == "states" or name.startswith(ONCE)]
    states = sum(round_up(inputs.pop(name), _HOST_ALIGNMENT) for name in single)
    return (
        copies * (sum(inputs.values()) + round_up(4 * setting.tokens, _HOST_ALIGNMENT))
        + states
        + embedded
        + max(looked_up, cached)
    )


def _stage(architecture: Architecture, mix: GgufMix, setting: Setting, device: int) -> Stage:
    stages: dict[tuple[object, ...], Stage] = vars(architecture).setdefault("_llama_cpp_stages", {})
    split = (setting.gpus, setting.shares, setting.gpu_layers)
    key = (*split, setting.moe_on_host, setting.overrides, setting.kv_on_host, mix.name, device)
    if key not in stages:
        count = len(architecture.layers)
        steps: list[Step] = []
        guests: list[Step] = []
        for index, layer in enumerate(architecture.layers):
            place = device_of(index, count, setting)
            away = (
                place > 0 and index < setting.moe_on_host and isinstance(layer.feed_forward, MixtureOfExperts)
            )
            if max(0, place) != device and not (away and device == 0):
                continue  # what the host holds, the first GPU computes
            (steps if max(0, place) == device else guests).append(
                Step(
                    layer,
                    _copies(architecture, mix, setting, index),
                    setting.kv_on_host or _cache_place(architecture, setting, index) == HOST,
                    _attends_on_host(architecture, setting, index),
                    turns=turns(architecture, index),
                    cuts_off=architecture.model_type.startswith(_CUTTING_OFF) and index < _FIRST_CUTTING_OFF,
                    experts_away=away,
                    stream_away=away and _stream_away(architecture, index),
                )
            )
        end = device_of(count, count, setting)
        # With indexers each layer has a tensor of its own; with states the gaps never settle into a pattern.
        whole = architecture.indexers or architecture.states
        told = tuple(steps) if whole else _telling(steps)
        hands, takes = _handed_over(architecture, setting, device, told)
        if hands is not None:
            last = max(index for index, step in enumerate(told) if step == hands)
            told = (*told[:last], hands, *told[last + 1 :])
        stages[key] = Stage(
            steps=told,
            hands_over=hands,
            takes_over=takes,
            guests=_telling(guests),
            first=device == 0,
            last=device == max(0, end),
            ends=device == max(0, device_of(count - 1, count, setting)),
            output_copies=_copies(architecture, mix, setting, None),
        )
    return stages[key]


def _stream_away(architecture: Architecture, index: int) -> bool:
    """Whether nothing with tensors of its own stands between a layer's experts and the next norm."""
    layers = architecture.layers
    layer, after = layers[index], layers[index + 1 : index + 2]
    alone = isinstance(layer.feed_forward, MixtureOfExperts) and layer.feed_forward.shared is None
    normed = any(weight.name.startswith("post_feedforward") for weight in layer.norms)
    return alone and not normed and not any(other.mixer.state is not None for other in after)


def _cache_place(architecture: Architecture, setting: Setting, index: int) -> int:
    """
    The GPU, or the host, that holds the cache that a layer reads: of one that borrows it, the last lender's of its kind.

    Source: src/llama-model.cpp, create_memory (reuse).
    """
    layers = architecture.layers
    mixer = layers[index].mixer
    if isinstance(mixer, BorrowedKv):
        index = max(
            at
            for at, layer in enumerate(layers[:index])
            if layer.mixer.cache is not None and layer.mixer.cache.window == mixer.window
        )
    return device_of(index, len(layers), setting)


def _attends_on_host(architecture: Architecture, setting: Setting, index: int) -> bool:
    """
    Whether the host itself attends over a cache that it has: what follows in the graph is its work too.

    That is the next layer's state, unless experts stand between, whose weights are written down at once, or a norm
    (Qwen3-Next's, before its delta rule).
    Source: ggml/src/ggml-backend.cpp, ggml_backend_sched_split_graph, pass 2 (expand GPU up, expand rest down).
    """
    layers = architecture.layers
    layer = layers[index]
    if isinstance(layer.mixer, SideBySide):  # its own state comes next
        return setting.kv_on_host or device_of(index, len(layers), setting) == HOST
    if layer.mixer.cache is None or layer.mixer.state is not None or index + 1 == len(layers):
        return False
    follows = next((at for at in range(index + 1, len(layers)) if not _at_once(layers[at])), index)
    gathers = isinstance(layers[follows].mixer, Mamba | Mamba2 | ShortConv)
    if not gathers or not isinstance(layer.feed_forward, DenseMLP | NoFeedForward):
        return False
    here, after = (device_of(i, len(layers), setting) for i in (index, follows))
    return setting.kv_on_host or here == after == HOST


def _handed_over(
    architecture: Architecture, setting: Setting, device: int, steps: tuple[Step, ...]
) -> tuple[Step | None, Mamba | Mamba2 | None]:
    """
    The last layer whose end the next GPU begins with, and the mixer whose end this GPU begins with.

    A layer with a state reads it before anything else; what was not yet written of a Mamba layer comes after.
    """
    count = len(architecture.layers)

    def pending(before: int) -> Mamba | Mamba2 | None:
        after = next((layer for layer in architecture.layers[before:] if not _at_once(layer)), None)
        if after is None or not isinstance(after.mixer, Mamba | Mamba2):
            return None
        last = next((layer for layer in reversed(architecture.layers[:before]) if not _at_once(layer)), None)
        if last is None or not isinstance(last.feed_forward, NoFeedForward | DenseMLP):
            return None
        return last.mixer if isinstance(last.mixer, Mamba | Mamba2) else None

    if setting.gpus == 1:
        return None, None
    mine = [index for index in range(count) if max(0, device_of(index, count, setting)) == device]
    if not mine:
        return None, None
    mixer = pending(mine[-1] + 1)
    hands = next((step for step in reversed(steps) if mixer is not None and step.layer.mixer == mixer), None)
    if hands is not None:
        # One object of its own, for equal layers before it do not hand over.
        hands = replace(hands)
    return hands, pending(mine[0])


def _at_once(layer: Layer) -> bool:
    """A plain MLP alone: written down when its result is needed."""
    return isinstance(layer.mixer, NoMixer) and isinstance(layer.feed_forward, DenseMLP)


def _copies(
    architecture: Architecture, mix: GgufMix, setting: Setting, index: int | None
) -> Mapping[str, int]:
    """Bytes of the tensors of a layer, or of the output, that lie on the host and are copied to be used."""
    count = len(architecture.layers)
    whole = device_of(count if index is None else index, count, setting) == HOST
    apart = index is not None and index < setting.moe_on_host
    if not whole and not apart and not setting.overrides:
        return {}
    sizes = copied_weights(architecture, mix, index)
    if setting.overrides:
        from vram_planner.engines.llama_cpp_overrides import moved  # noqa: PLC0415  seldom needed

        places = moved(architecture, mix, setting, index)
        sizes = {name: n for name, n in sizes.items() if places.get(name, HOST if whole else None) == HOST}
    elif not whole:
        return {name: size for name, size in sizes.items() if is_experts(name)}
    factors = rope_factor_bytes(architecture) if whole and index is not None else 0
    return sizes | {"rope_freqs": factors} if factors else sizes


def _telling(steps: Sequence[Step]) -> tuple[Step, ...]:
    """
    Enough layers to set the peak: of a group of layers that repeats often, four repetitions, or five if odd.

    The allocator's state repeats with such a group, or with two of them where tensors change places.
    """
    kinds: list[Step] = []
    numbers = []
    for step in steps:
        number = next((i for i, kind in enumerate(kinds) if kind == step), len(kinds))
        if number == len(kinds):
            kinds.append(step)
        numbers.append(number)
    chosen: list[int] = []
    start = 0
    while start < len(numbers):
        period, repeats = _repetition(numbers, start)
        chosen += numbers[start : start + period * min(repeats, _FEWEST + repeats % 2)]
        start += period * repeats
    return tuple(kinds[number] for number in chosen)


def _repetition(numbers: Sequence[int], start: int) -> tuple[int, int]:
    """The period and number of repetitions, from `start` on, that leave out the most layers; (1, 1) if none does."""
    best, spared = (1, 1), 0
    for period in range(1, _LONGEST_PERIOD + 1):
        group, repeats = numbers[start : start + period], 1
        while numbers[start + period * repeats : start + period * (repeats + 1)] == group:
            repeats += 1
        fewer = period * (repeats - min(repeats, _FEWEST + repeats % 2))
        if fewer > spared:
            best, spared = (period, repeats), fewer
    return best
