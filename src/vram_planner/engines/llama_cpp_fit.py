"""
llama.cpp: what fits a card, the longest context and the most layers.

`--fit` of llama.cpp shortens the context first, down to 4,096 tokens, then leaves layers on the host until what is left
fits beside 1 GiB that stays free on every device. Source (b11434): common/fit.cpp, common_fit_params.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.engines.base import largest
from vram_planner.engines.llama_cpp_cache import kv_bytes, states_bytes
from vram_planner.engines.llama_cpp_compute import compute_bytes
from vram_planner.engines.llama_cpp_layout import weights_on

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.gguf import GgufMix
    from vram_planner.architecture.model import Architecture
    from vram_planner.engines.llama_cpp_layout import Setting

_STEP = 256
_LONGEST = 1 << 28
_MOST_KEPT = 256


def device_bytes(architecture: Architecture, mix: GgufMix, setting: Setting, device: int) -> int:
    """Weights, cache, states and compute buffer of a GPU or the host, and the projector on the first GPU."""
    return (
        weights_on(architecture, mix, setting, device)
        + kv_bytes(architecture, setting, device)
        + states_bytes(architecture, setting, device)
        + compute_bytes(architecture, mix, setting, device)
        + (setting.projector if device == 0 else 0)
    )


def most_gpu_layers(architecture: Architecture, mix: GgufMix, setting: Setting, room: int) -> int:
    """
    The largest `-ngl` with which every card holds its part in `room` bytes; the output counts as a layer.

    0 if not even one layer fits beside the compute buffer.
    """

    def fits(count: int) -> bool:
        fewer = replace(setting, gpu_layers=count)
        return all(device_bytes(architecture, mix, fewer, i) <= room for i in range(setting.gpus))

    # Beside its own size a layer changes the compute buffer a little, so the last step is tried both ways.
    found = largest(fits, len(architecture.layers) + 1)
    return found + 1 if found < len(architecture.layers) + 1 and fits(found + 1) else found


def fewest_moe_on_host(architecture: Architecture, mix: GgufMix, setting: Setting, room: int) -> int | None:
    """
    The smallest `--n-cpu-moe` with which every card holds its part in `room` bytes; None if none does.

    `--fit` moves experts by parts of a layer too, so it may leave a little less on the host.
    """
    count = len(architecture.layers)
    if not any(layer.feed_forward.active_share[1] > 1 for layer, _ in architecture.groups):
        return None

    def fits(kept: int) -> bool:
        fewer = replace(setting, moe_on_host=count - kept)
        return all(device_bytes(architecture, mix, fewer, i) <= room for i in range(setting.gpus))

    found = largest(fits, count)
    return count - found if found or fits(0) else None


def longest_context(architecture: Architecture, mix: GgufMix, setting: Setting, room: int) -> int:
    """
    The longest context of a slot, in steps of 256, with which every card holds its part in `room` bytes.

    The last answers are kept beside the architecture.
    """
    kept: dict[tuple[Setting, str, int], int] = vars(architecture).setdefault("_llama_cpp_longest", {})
    key = (setting, mix.name, room)
    if key not in kept:
        if len(kept) >= _MOST_KEPT:
            kept.clear()
        kept[key] = min(
            _longest_on(
                architecture,
                mix,
                setting,
                device,
                room
                - weights_on(architecture, mix, setting, device)
                - states_bytes(architecture, setting, device)
                - (setting.projector if device == 0 else 0),
            )
            for device in range(setting.gpus)
        )
    return kept[key]


def _longest_on(architecture: Architecture, mix: GgufMix, setting: Setting, device: int, room: int) -> int:
    """
    The same for one card with `room` bytes beside its weights and states.

    A cache is quickly worked out and a compute buffer is not, so the buffer is asked at few lengths: as
    asked, at the length that this one leaves room for, and between the two by the rule of three.
    """

    def longer(steps: int) -> Setting:
        context = _STEP * max(1, steps)
        return replace(setting, context=context, outputs=min(setting.ubatch, setting.slots * context))

    def buffer(steps: int) -> int:
        return compute_bytes(architecture, mix, longer(steps), device)

    def total(steps: int) -> int:
        return kv_bytes(architecture, longer(steps), device) + buffer(steps)

    def fitted(taken: int) -> int:
        return _longest_cache(lambda steps: kv_bytes(architecture, longer(steps), device), room - taken)

    high = fitted(compute_bytes(architecture, mix, setting, device))
    if high == 0 or total(high) <= room:
        return _STEP * high
    low = fitted(buffer(high))
    if low == 0 or total(low) > room:
        return _STEP * largest(lambda steps: total(steps) <= room, high)
    while high - low > 1:
        slope = (total(high) - total(low)) / (high - low)
        guess = min(high - 1, max(low + 1, low + int((room - total(low)) / slope)))
        if total(guess) <= room:
            low = guess
        else:
            high = guess
    return _STEP * low


def _longest_cache(size: Callable[[int], int], room: int) -> int:
    """The most steps whose cache fits: beyond every window it is a straight line, below that we search."""
    far = _LONGEST // _STEP
    slope = size(far) - size(far - 1)
    if slope > 0:
        steps = far + (room - size(far)) // slope
        if 0 < steps < far and size(steps) <= room < size(steps + 1):
            return steps
    return largest(lambda steps: size(steps) <= room, far)
