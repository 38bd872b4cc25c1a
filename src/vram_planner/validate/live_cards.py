"""A model dealt out over several GPUs: what the plan gives each card, and what each was found to hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vram_planner.planning.by_card import by_card
from vram_planner.validate.faults import CannotMeasureError
from vram_planner.validate.live_result import CardFound, Sizes, rows_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vram_planner.engines.transformers_cards import OneCard
    from vram_planner.planning.request import PlanRequest
    from vram_planner.validate.checked import Checked
    from vram_planner.validate.device_set import GpuSet
    from vram_planner.validate.live_result import Stage

_OTHER = -1  # a layer on no card: left to the CPU or the disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """What each card may hold of the weights (`max_memory`), and what the plan gives each."""

    max_memory: tuple[int, ...]
    cards: tuple[OneCard, ...]

    @property
    def fullest(self) -> int:
        """The card with the most of weights, cache and activations by the plan."""
        sums = [card.weights_bytes + card.held_bytes + card.activation_bytes for card in self.cards]
        return sums.index(max(sums))


def split_over(request: PlanRequest, place: GpuSet, free_bytes: Sequence[int]) -> Split:
    """
    Deal a model out over cards with so much free memory each.

    Raises CannotMeasureError where not all of it fits on them: what is left to the CPU runs on another card than it lies on.
    """
    pairs = [str(card.facts["compute_capability"] or "").partition(".") for card in place.cards]
    known = [(int(major), int(minor)) for major, _, minor in pairs if major.isdigit() and minor.isdigit()]
    capability = min(known) if len(known) == len(pairs) else None
    cards, host_bytes = by_card(request, free_bytes, capability)
    if host_bytes:
        raise CannotMeasureError(
            f"{host_bytes:,} B of the weights do not fit on {place.name}: free are "
            + ", ".join(f"{n_bytes:,} B" for n_bytes in free_bytes),
            hint="end other programs on them, take more GPUs or a smaller model, or use `vram-plan validate shadow`",
        )
    return Split(max_memory=tuple(free_bytes), cards=cards)


def room_on_each(request: PlanRequest, place: GpuSet) -> None:
    """Refuse what NVML says will not fit, before anything is started."""
    free = [card.free_bytes for card in place.cards]
    known = [n_bytes for n_bytes in free if n_bytes is not None]
    if len(known) == len(free):
        split_over(request, place, known)


def compare_cards(split: Split, stages: tuple[Stage, ...], place: GpuSet) -> tuple[Checked, ...]:
    """The rows of every card: each of the plan's parts against what that card held."""
    rows: list[Checked] = []
    for number, (card, planned) in enumerate(zip(place.cards, split.cards, strict=True)):
        own = tuple(stage.cards[number] for stage in stages)
        parts = {
            "weights": planned.weights_bytes,
            "kv_cache": planned.held_bytes,
            "activations": planned.activation_bytes,
            "runtime": planned.runtime_bytes,
        }
        found = rows_of(parts, own, Sizes.of(own, 0, on_gpu=True), on_gpu=True)
        rows += [replace(row, name=f"{row.name}, GPU {card.index}") for row in found]
    return tuple(rows)


def cards_found(split: Split, loaded: dict[str, Any], place: GpuSet) -> tuple[CardFound, ...]:
    """Each card with its layers, as planned and as found, and what was still held when the process was gone."""
    on = [_card_of(device) for device in loaded.get("layers", ())]
    left = place.left_behind_bytes or (None,) * len(place.cards)
    return tuple(
        CardFound(
            index=card.index,
            name=card.name,
            planned_layers=planned.n_layers,
            layers=on.count(number) if on else None,
            max_memory_bytes=split.max_memory[number],
            left_behind_bytes=left[number],
            vanished=card.vanished,
        )
        for number, (card, planned) in enumerate(zip(place.cards, split.cards, strict=True))
    )


def _card_of(device: str) -> int:
    kind, _, number = device.partition(":")
    return int(number or 0) if kind == "cuda" else _OTHER


def card_warnings(cards: tuple[CardFound, ...]) -> tuple[str, ...]:
    """What went otherwise than planned on a card."""
    found = [
        f"GPU {card.index} no longer answers NVML: what it holds now is not known"
        for card in cards
        if card.vanished
    ]
    found += [
        f"GPU {card.index} has {card.layers} layers where the plan has {card.planned_layers}"
        for card in cards
        if not card.as_planned
    ]
    return tuple(found)
