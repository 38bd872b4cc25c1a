"""
What transformers packs while it loads: which tensors, and what that takes on the card.

Source: transformers 5.23.0, core_model_loading.py, convert_and_load_state_dict_in_model (no worker threads where weights are
packed on the fly: one tensor at a time), integrations/bitsandbytes.py, quantizers/quantizer_{bnb_4bit,bnb_8bit,torchao,hqq}.py:
all four pack `torch.nn.Linear` alone, and a layer's experts are one module without any.
https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/core_model_loading.py
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.precision import Place, Uniform
from vram_planner.architecture.weight import Role
from vram_planner.engines.loads import family_of
from vram_planner.engines.transformers_pass import FLOAT_BYTES
from vram_planner.engines.transformers_stack import Peak, Stack
from vram_planner.units import GIB

if TYPE_CHECKING:
    from vram_planner.engines.base import Ask

_ON_THE_FLY = frozenset({"bitsandbytes", "torchao", "hqq"})
_EIGHT_BITS, _DOUBLE = "bnb-int8", "nf4-double"
_NUMBERS_A_SCALE = 64


def packs_on_load(ask: Ask) -> bool:
    """Whether weights are read in 16 bits and packed on the card; a checkpoint stored so is read as it is."""
    return (
        family_of(ask.precision.name) in _ON_THE_FLY and ask.architecture.precision.name != ask.precision.name
    )


def as_loaded(ask: Ask) -> Ask:
    """The same with the experts left in 16 bits where they are not packed."""
    precision = ask.precision
    if not packs_on_load(ask) or not isinstance(precision, Uniform) or precision.expert is None:
        return ask
    if not _experts_bytes(ask):
        return ask
    return replace(ask, precision=replace(precision, expert=None))


def expert_warnings(asked: Ask, loaded: Ask) -> tuple[str, ...]:
    """That the experts are not packed, and how much that is."""
    if asked is loaded:
        return ()
    told = (
        f"{asked.precision.name} is packed while loading, and of linear layers alone: transformers 5.23 keeps all experts of a "
        f"layer in one module, so they stay in 16 bits ({_experts_bytes(loaded) / GIB:.2f} GiB)"
    )
    return (told,)


def _experts_bytes(ask: Ask) -> int:
    place = Place(ask.architecture, None)
    return sum(
        ask.precision.weight_bytes(weight, place)
        for layer in ask.architecture.layers
        for weight in layer.weights
        if weight.role is Role.EXPERT
    )


def loading_peak(stack: Stack, ask: Ask) -> Peak:
    """
    What packing needs on the card beyond all weights, at most: for the largest linear layer of n numbers, b bytes each,

        nf4          n · b                   the tensor as it arrived
        nf4-double   n · b + 2 · n/64 · 4    and its float32 scales, twice while they are packed in their turn
        bnb-int8     2 · n · b               as it arrived, and a float16 copy (Int8Params moves it by way of the CPU)
        others       n · b                   at least: what torchao and HQQ compute in between is not modelled

    Source: bitsandbytes nn/modules.py, Params4bit._quantize and Int8Params._quantize; functional.py, quantize_4bit.
    """
    if not packs_on_load(ask):
        return Peak(n_bytes=0, moment="loading")
    largest = max(
        (
            weight.elements
            for kind in stack.kinds
            for weight in kind.layer.weights
            if weight.role is Role.LINEAR
        ),
        default=0,
    )
    n_bytes = largest * ask.precision.element_bytes
    if ask.precision.name == _EIGHT_BITS:
        n_bytes *= 2
    if ask.precision.name == _DOUBLE:
        n_bytes += 2 * -(-largest // _NUMBERS_A_SCALE) * FLOAT_BYTES
    return Peak(n_bytes=n_bytes, moment="loading")
