"""bitsandbytes as vLLM quantises it while loading: four bits, and the scales quantised again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.precision import Uniform
from vram_planner.architecture.storage import NF4, NF4_DOUBLE

if TYPE_CHECKING:
    from vram_planner.engines.base import Ask


def as_loaded(ask: Ask) -> Ask:
    """
    The ask with double-quantised NF4 where a 16-bit checkpoint is quantised to NF4 on loading.

    quantize_4bit(…, compress_statistics=True): an 8-bit scale for 64 numbers and a float32 for 256 of these.
    A checkpoint that is stored so already keeps its own format.
    Source: vLLM model_loader/bitsandbytes_loader.py (loader.py up to 0.8), _unquantized_generator.
    """
    precision = ask.precision
    stored = precision is ask.architecture.precision
    if stored or not isinstance(precision, Uniform) or precision.linear is not NF4:
        return ask
    experts = NF4_DOUBLE if precision.expert is NF4 else precision.expert
    return replace(ask, precision=replace(precision, linear=NF4_DOUBLE, expert=experts))
