"""
Which layers run on which card, and what of them stays in the CPU's memory.

Source: transformers 5.23.0, integrations/accelerate.py; accelerate 1.14, hooks.py, AlignDevicesHook, and big_modeling.py,
dispatch_model: an offloaded layer runs on the first card, its weights are copied there module by module and dropped again,
and its cache stays there.
https://github.com/huggingface/accelerate/blob/main/src/accelerate/hooks.py
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vram_planner.architecture.precision import DTYPES, Place
from vram_planner.architecture.weight import Role
from vram_planner.engines.transformers_parts import CardPlan, free_bytes
from vram_planner.engines.transformers_pass import Pass
from vram_planner.engines.transformers_place import Placed, placed, placed_within, shares
from vram_planner.engines.transformers_stack import Stack, make_stack, whole_stack
from vram_planner.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vram_planner.architecture.model import Architecture, Layer
    from vram_planner.architecture.precision import Precision
    from vram_planner.engines.base import Ask, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class OneCard:
    """
    One of several cards: its layers, and the bytes of its weights, of cache and states, and of the largest moment.

    `runtime_bytes` is as assumed as in every plan: context, work space and fragmentation.
    """

    first_layer: int
    n_layers: int
    weights_bytes: int
    held_bytes: int
    activation_bytes: int
    runtime_bytes: int


def stacks_of(ask: Ask) -> tuple[Stack, ...]:
    """One stack a card: `device_map="auto"` deals out whole layers, in order, and each card waits for the one before."""
    architecture, cards = ask.architecture, ask.layout.tp * ask.layout.pp
    found = left_to_cpu(ask)
    if found is not None:
        return _heaviest_of_each(_beside_cpu(architecture, ask.precision, found))
    if cards == 1:
        return (whole_stack(architecture, architecture.weights_bytes(ask.precision)),)
    return _heaviest_of_each(
        [
            make_stack(architecture, architecture.layers[start : start + count], weights)
            for start, count, weights in shares(architecture, ask.precision, cards)
        ]
    )


def stacks_within(ask: Ask, card_free_bytes: Sequence[int]) -> tuple[tuple[tuple[int, int, Stack], ...], int]:
    """
    For every card its first layer, how many, and its stack; and the bytes that are left to the CPU's memory.

    Logits are made where the head is and carried to the first card, where the next token is chosen: cards in between know
    no vocabulary. Source: accelerate's hooks.py, AlignDevicesHook with io_same_device for the model as a whole.
    """
    architecture = ask.architecture
    dealt, host_bytes = placed_within(architecture, ask.precision, card_free_bytes)
    holders = [card for card, share in enumerate(dealt) if share.weights_bytes]
    ends = {holders[0], holders[-1]} if holders else set()
    found = []
    for card, (start, count, weights) in enumerate(dealt):
        stack = make_stack(architecture, architecture.layers[start : start + count], weights)
        if card not in ends:
            stack = replace(stack, vocabulary=0)
        found.append((start, count, stack if weights else replace(stack, weights_bytes=0)))
    return tuple(found), host_bytes


def plan_without_layers(stack: Stack, work: Workload, ask: Ask, attn: str) -> CardPlan:
    """A card with the embedding or the head alone, or with nothing: no cache, and the logits at most."""
    once = Pass(batch=work.concurrency, new=1, element_bytes=ask.precision.element_bytes)
    peak = stack.sampling(once)
    return CardPlan(stack=stack, kv_bytes=0, state_bytes=0, peak=peak, worst=peak, least=peak, attn=attn)


def left_to_cpu(ask: Ask) -> Placed | None:
    """Where everything goes if layers may stay with the CPU and some must; None if all is on the cards."""
    if not ask.options.offload or ask.device is None:
        return None
    if ask.precision.name not in DTYPES:
        raise RequestError(
            f"transformers' offloading of {ask.precision.name} weights is not modelled: bitsandbytes refuses it, and "
            "the others size their layers in their own way",
            hint="leave out --offload, or give --quant bfloat16",
        )
    cards = ask.layout.tp * ask.layout.pp
    found = placed(ask.architecture, ask.precision, cards, free_bytes(ask.device))
    if not found.host_bytes:
        return None
    if not found.cards:
        raise RequestError(
            "not even the embedding fits on the card: all of the model would run on the CPU",
            hint="choose a larger card, or a smaller model",
        )
    return found


def _beside_cpu(architecture: Architecture, precision: Precision, found: Placed) -> list[Stack]:
    """The first card runs its own layers and those of the CPU, and has room for the largest module that comes over."""
    layers = architecture.layers
    host = layers[found.first_host_layer :]
    staged = max((_largest_module(layer, precision, architecture) for layer in host), default=0)
    if found.host_head:
        place = Place(architecture, None)
        staged = max(staged, *(precision.weight_bytes(weight, place) for weight in architecture.head))
    stacks = []
    for card, (start, count, weights) in enumerate(found.cards):
        own = layers[start : start + count]
        if card == 0:
            first = make_stack(architecture, (*own, *host), weights)
            stacks.append(replace(first, staged_bytes=staged))
        else:
            stacks.append(make_stack(architecture, own, weights))
    return stacks


def _largest_module(layer: Layer, precision: Precision, architecture: Architecture) -> int:
    """
    Bytes of a layer's largest module with tensors of its own: those are copied together.

    All experts of a layer are one such module (`MixtralExperts` holds gate_up_proj and down_proj), else each matrix.
    """
    place = Place(architecture, None)
    experts = single = 0
    for weight in layer.weights:
        n_bytes = precision.weight_bytes(weight, place)
        if weight.role is Role.EXPERT:
            experts += n_bytes
        else:
            single = max(single, n_bytes)
    return max(single, experts)


def _heaviest_of_each(stacks: list[Stack]) -> tuple[Stack, ...]:
    """Of cards with the same layers only the one with the most weights matters."""
    kept: dict[tuple[int, tuple[tuple[int, int, tuple[int, ...]], ...]], Stack] = {}
    for stack in sorted(stacks, key=lambda one: one.weights_bytes):
        kept[stack.staged_bytes, tuple((id(kind.layer), kind.count, kind.before) for kind in stack.kinds)] = (
            stack
        )
    return tuple(kept.values())
