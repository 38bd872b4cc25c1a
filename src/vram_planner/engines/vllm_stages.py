"""The pipeline stages of vLLM: which layers each holds, its weights, and which of them has least room."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.parallel import stage_layers

if TYPE_CHECKING:
    from vram_planner.engines.base import Ask


def stage_asks(ask: Ask) -> tuple[Ask, ...]:
    """
    The same ask once for each pipeline stage, with the layers of that stage alone.

    Layers are shared out as VLLM_PP_LAYER_PARTITION leaves it where it is not set.
    Source: vLLM 0.32 distributed/utils.py, get_pp_indices.
    """
    if ask.layout.pp == 1:
        return (ask,)
    layers, start, found = ask.architecture.layers, 0, []
    for count in stage_layers(len(layers), ask.layout.pp):
        part = replace(ask.architecture, layers=layers[start : start + count])
        found.append(replace(ask, architecture=part))
        start += count
    return tuple(found)
