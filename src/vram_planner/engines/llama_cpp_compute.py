"""llama.cpp's compute buffer: the graph of the largest micro-batch, laid out as ggml's allocator does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.engines.llama_cpp_graph import GraphBuilder, Stage
from vram_planner.engines.llama_cpp_layout import device_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vram_planner.architecture.model import Architecture, Layer
    from vram_planner.engines.llama_cpp_layout import Setting

_MOST_KEPT = 256


def compute_bytes(architecture: Architecture, setting: Setting, device: int = 0) -> int:
    """
    Bytes of the compute buffer of one GPU for a micro-batch of `setting.tokens`.

    The last answers are kept beside the architecture.
    """
    kept: dict[tuple[Setting, int], int] = vars(architecture).setdefault("_llama_cpp_compute", {})
    key = (setting, device)
    if key not in kept:
        if len(kept) >= _MOST_KEPT:
            kept.clear()
        builder = GraphBuilder(architecture, setting)
        kept[key] = builder.peak(_stage(architecture, setting.gpus, device))
    return kept[key]


def _stage(architecture: Architecture, gpus: int, device: int) -> Stage:
    stages: dict[tuple[int, int], Stage] = vars(architecture).setdefault("_llama_cpp_stages", {})
    if (gpus, device) not in stages:
        count = len(architecture.layers)
        own = [layer for i, layer in enumerate(architecture.layers) if device_of(i, count, gpus) == device]
        stages[gpus, device] = Stage(
            layers=_telling(own), first=device == 0, last=device == device_of(count, count, gpus)
        )
    return stages[gpus, device]


def _telling(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """
    The layers that can set the peak: those that come after two others in a new way, and the last.

    The allocator's state repeats once the same kinds of layers have followed each other.
    """
    seen: set[tuple[int, ...]] = set()
    kinds: list[Layer] = []
    numbers: list[int] = []
    for layer in layers:
        number = next((i for i, kind in enumerate(kinds) if kind is layer or kind == layer), len(kinds))
        if number == len(kinds):
            kinds.append(layer)
        numbers.append(number)
    chosen = []
    for index, layer in enumerate(layers):
        before = tuple(numbers[max(0, index - 2) : index + 1])
        if before not in seen or index == len(layers) - 1:
            seen.add(before)
            chosen.append(layer)
    return tuple(chosen)
