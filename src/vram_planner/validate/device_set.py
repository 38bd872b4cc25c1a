"""Several GPUs that are measured together: each is watched through NVML by itself."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from vram_planner.errors import RequestError
from vram_planner.hardware_profiles import detect
from vram_planner.validate.devices import (
    GpuPlace,
    Place,
    Seen,
    asked,
    left_on,
    one_gpu,
    place_for,
    seen_machine,
)
from vram_planner.validate.faults import CannotMeasureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vram_planner.hardware_profiles import Machine

ALL = "all"
_HOW = "a number as in 0, several as in 0,1, or all"

Gpus = int | str | tuple[int, ...] | list[int]


class GpuSet(Place):
    """
    Several GPUs under one process, in NVML's order: CUDA's device i is `cards[i]`.

    Figures of the whole are sums; where a card does not tell one, there is no sum.
    """

    def __init__(self, cards: tuple[GpuPlace, ...], ask: Callable[[], Machine]) -> None:
        super().__init__()
        self.cards, self._ask = cards, ask
        names = [card.name for card in cards]
        self.alike = len(set(names)) == 1
        self.name = f"{len(cards)} x {names[0]}" if self.alike else " + ".join(names)
        self.lock_names = tuple(name for card in cards for name in card.lock_names)
        self.free_bytes = total_of(card.free_bytes for card in cards)
        totals = [card.total_bytes for card in cards if card.total_bytes]
        self.plan_gpu = f"custom:{min(totals)}B" if totals else "none"
        self.left_behind_bytes: tuple[int | None, ...] = ()
        self.facts = {
            "device": self.name,
            "driver": cards[0].facts["driver"],
            "gpus": [{"gpu": card.index, **card.facts} for card in cards],
        }

    def environment(self) -> dict[str, str]:
        """These devices are visible, in this order."""
        return {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(card.visible for card in self.cards)}

    def follow(self, pid: int) -> None:
        """The process that is measured from here on, on every card."""
        super().follow(pid)
        for card in self.cards:
            card.follow(pid)

    def read(self) -> Seen:
        """NVML is asked once for all."""
        machine = asked(self._ask)
        cards = tuple(card.seen_in(machine) for card in self.cards)
        return Seen(
            total_of(card.process_bytes for card in cards),
            total_of(card.device_bytes for card in cards),
            total_of(card.grown_bytes for card in cards),
            cards,
        )

    def left_behind(self) -> int | None:
        """Wait until every card is as it was; else what is still held on all."""
        self.left_behind_bytes = left_on(self.cards, self._ask)
        return total_of(self.left_behind_bytes)


def left_words(place: Place) -> str:
    """What is still held when the process is gone, card by card where there are several; nothing where it is nothing."""
    left = place.left_behind()
    if not isinstance(place, GpuSet):
        return f"{left:,} B more than before are held on {place.name}" if left else ""
    return ", ".join(
        f"{n_bytes:,} B more than before are held on GPU {card.index}"
        for card, n_bytes in zip(place.cards, place.left_behind_bytes, strict=True)
        if n_bytes
    )


def total_of(values: Iterable[int | None]) -> int | None:
    """The sum; None where one is not known."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def gpu_numbers(asked_for: Gpus, ask: Callable[[], Machine] = detect) -> tuple[int, ...]:
    """
    NVML's numbers: of `0`, `"0,1"`, `(0, 1)`, or `"all"` for those that answer, in ascending order.

    Raises RequestError for what is none of these, and NoGpuError where "all" are none.
    """
    if isinstance(asked_for, str):
        if asked_for.strip().lower() == ALL:
            return tuple(gpu.index for gpu in seen_machine(ask).usable_gpus)
        if re.fullmatch(r"\s*\d{1,4}(\s*,\s*\d{1,4})*\s*", asked_for) is None:
            raise RequestError(f"--gpu {asked_for[:40]!r} is no number", hint=_HOW)
        numbers = [int(word) for word in asked_for.split(",")]
    else:
        numbers = [asked_for] if isinstance(asked_for, int) else list(asked_for)
    if not numbers or len(set(numbers)) < len(numbers):
        raise RequestError("each GPU is named once, and one at least", hint=_HOW)
    return tuple(sorted(numbers))


def place_on(device: str, gpu: Gpus, ask: Callable[[], Machine] = detect) -> Place:
    """
    The CPU, one GPU, or several together.

    Raises RequestError for a GPU that is not there, NoGpuError (status 4) for one that does not answer, and
    CannotMeasureError for several in MIG mode: a process sees one slice alone
    (https://docs.nvidia.com/datacenter/tesla/mig-user-guide/, CUDA device enumeration).
    """
    if device == "cpu":
        return Place()
    numbers = gpu_numbers(gpu, ask)
    if len(numbers) == 1:
        return place_for(device, numbers[0], ask)
    machine = seen_machine(ask)
    cards = tuple(GpuPlace(machine, one_gpu(machine, number), ask) for number in numbers)
    sliced = [str(card.index) for card in cards if card.facts["mig"]]
    if sliced:
        raise CannotMeasureError(
            f"GPU {', '.join(sliced)} is in MIG mode, and CUDA shows a process one slice alone",
            hint="validate each by itself with --parallel each, or leave it out of --gpu",
        )
    return GpuSet(cards, ask)
