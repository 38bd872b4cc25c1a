"""
Which card gets which layers under `device_map="auto"`.

Source: transformers 5.23.0, integrations/accelerate.py, get_balanced_memory and infer_auto_device_map,
https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/accelerate.py.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

from vram_planner.architecture.parallel import Layout, layer_bytes, table_bytes
from vram_planner.architecture.precision import Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.precision import Precision

# get_balanced_memory takes 90 % of what is free on a card that is alone.
_SHARE_OF_ONE_CARD = 90


class Share(NamedTuple):
    """What one card holds: layers from `start` on, and the bytes of all its weights."""

    start: int
    n_layers: int
    weights_bytes: int


class Placed(NamedTuple):
    """What each card holds of the weights, and what is left to the CPU's memory: layers from `first_host_layer` on."""

    cards: tuple[Share, ...]
    first_host_layer: int
    host_bytes: int
    host_head: bool


def shares(architecture: Architecture, precision: Precision, cards: int) -> tuple[Share, ...]:
    """The cards that hold layers, in order."""
    embedding, layers, last = _pieces(architecture, precision)
    used, cards_of = deal(embedding, layers, last, cards)
    found = []
    for card, n_bytes in enumerate(used):
        if count := cards_of.count(card):
            found.append(Share(cards_of.index(card), count, n_bytes))
    return tuple(found)


def placed(architecture: Architecture, precision: Precision, cards: int, free_bytes: int) -> Placed:
    """
    What `cards` with that much free memory each hold, and what `device_map="auto"` leaves to the CPU's memory.

    A card alone is filled up to 0.9 of what is free; of several all but the last as `deal` says, and none beyond what is
    free. Once a piece does not fit, it and all after it go on to the next card, at last to the CPU. Source:
    get_balanced_memory and infer_auto_device_map.
    """
    embedding, layers, last = _pieces(architecture, precision)
    room = free_bytes * _SHARE_OF_ONE_CARD // 100 if cards == 1 else free_bytes
    used, cards_of = deal(embedding, layers, last, cards, room)
    found = []
    for card, n_bytes in enumerate(used[:cards]):
        if n_bytes:
            start = next((index for index, on in enumerate(cards_of) if on >= card), len(layers))
            found.append(Share(start, cards_of.count(card), n_bytes))
    on_cards = sum(on < cards for on in cards_of)
    head = last[-1]
    return Placed(tuple(found), on_cards, used[cards], bool(head) and used[cards] >= head)


def placed_within(
    architecture: Architecture, precision: Precision, free_bytes: Sequence[int]
) -> tuple[tuple[Share, ...], int]:
    """
    What each of several cards holds with so much free memory each, in order, and the bytes left to the CPU's memory.

    As `from_pretrained(device_map="auto", max_memory={0: …, 1: …})` deals out: the balanced share of a card is cut to what
    is free there, and the last card has all of its own. A card that gets nothing has a share of nothing.
    """
    embedding, layers, last = _pieces(architecture, precision)
    cards = len(free_bytes)
    used, cards_of = deal(embedding, layers, last, cards, free_bytes)
    found = []
    for card, n_bytes in enumerate(used[:cards]):
        start = next((index for index, on in enumerate(cards_of) if on >= card), len(layers))
        found.append(Share(start, cards_of.count(card), n_bytes))
    return tuple(found), used[cards]


def deal(
    embedding: int,
    layers: Sequence[int],
    last: Iterable[int],
    cards: int,
    free_bytes: int | Sequence[int] | None = None,
) -> tuple[list[int], list[int]]:
    """
    Bytes on each card, and each layer's card: filled in order up to total / cards + 1.25 · the largest piece.

    The last card takes all that is left; the first keeps room for the largest piece behind the one in hand.
    Embedding, layers, final norm and head are the pieces. With `free_bytes` (of every card, or one figure a card) no card
    holds more than that, and what is left is on one more "card", the CPU.
    """
    last = tuple(last)
    largest = max(embedding, *layers, *last)
    room = (embedding + sum(layers) + sum(last)) // cards + largest + largest // 4
    rooms: list[float] = [room] * (cards - 1) + [inf]
    if free_bytes is not None:
        free = [free_bytes] * cards if isinstance(free_bytes, int) else free_bytes
        rooms = [min(room, most) for room, most in zip(rooms, free, strict=True)] + [inf]
    used, cards_of, card = [0] * len(rooms), [], 0
    pieces = (embedding, *layers, *last)
    for index, piece in enumerate(pieces):
        reserved = max(pieces[index + 1 :], default=0) if card == 0 else 0
        while used[card] + piece > rooms[card] - reserved:
            card, reserved = card + 1, 0
        used[card] += piece
        if 0 < index <= len(layers):
            cards_of.append(card)
    return used, cards_of


def _pieces(architecture: Architecture, precision: Precision) -> tuple[int, list[int], tuple[int, int]]:
    """Bytes of the embedding and the towers, of each layer, of the final norm and of the head."""
    place = Place(architecture, None)
    embedding, head = table_bytes(architecture, precision, Layout(), 1)
    embedding += sum(precision.weight_bytes(weight, place) for weight in architecture.towers)
    norms = sum(precision.weight_bytes(weight, place) for weight in architecture.final_norm)
    return embedding, _layer_sizes(architecture, precision), (norms, head)


def _layer_sizes(architecture: Architecture, precision: Precision) -> list[int]:
    layout = Layout()
    if precision.by_layer:
        count = len(architecture.layers)
        return [layer_bytes(architecture, precision, layout, index) for index in range(count)]
    known: dict[int, int] = {}
    sizes = []
    for index, layer in enumerate(architecture.layers):
        if id(layer) not in known:
            known[id(layer)] = layer_bytes(architecture, precision, layout, index)
        sizes.append(known[id(layer)])
    return sizes
