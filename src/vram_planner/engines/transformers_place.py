"""
Which card gets which layers under `device_map="auto"`.

Source: transformers 5.23.0, integrations/accelerate.py, get_balanced_memory and infer_auto_device_map,
https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/accelerate.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vram_planner.architecture.parallel import Layout, layer_bytes, table_bytes
from vram_planner.architecture.precision import Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.precision import Precision


class Share(NamedTuple):
    """What one card holds: layers from `start` on, and the bytes of all its weights."""

    start: int
    n_layers: int
    weights_bytes: int


def shares(architecture: Architecture, precision: Precision, cards: int) -> tuple[Share, ...]:
    """The cards that hold layers, in order."""
    place = Place(architecture, None)
    embedding, head = table_bytes(architecture, precision, Layout(), 1)
    embedding += sum(precision.weight_bytes(weight, place) for weight in architecture.towers)
    norms = sum(precision.weight_bytes(weight, place) for weight in architecture.final_norm)
    layers = _layer_sizes(architecture, precision)
    used, cards_of = deal(embedding, layers, (norms, head), cards)
    found = []
    for card, n_bytes in enumerate(used):
        if count := cards_of.count(card):
            found.append(Share(cards_of.index(card), count, n_bytes))
    return tuple(found)


def deal(
    embedding: int, layers: Sequence[int], last: Iterable[int], cards: int
) -> tuple[list[int], list[int]]:
    """
    Bytes on each card, and each layer's card: filled in order up to total / cards + 1.25 · the largest piece.

    The last card takes all that is left; the first keeps room for the largest piece that is still to come.
    Embedding, layers, final norm and head are the pieces.
    """
    last = tuple(last)
    largest = max(embedding, *layers, *last)
    room = (embedding + sum(layers) + sum(last)) // cards + largest + largest // 4
    used, cards_of, card = [0] * cards, [], 0
    pieces = (embedding, *layers, *last)
    for index, piece in enumerate(pieces):
        reserved = max(pieces[index:]) if card == 0 else 0
        if card < cards - 1 and used[card] + piece > room - reserved:
            card += 1
        used[card] += piece
        if 0 < index <= len(layers):
            cards_of.append(card)
    return used, cards_of


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
