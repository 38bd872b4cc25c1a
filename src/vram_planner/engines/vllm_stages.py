"""The pipeline stages of vLLM: which layers each holds, its weights, and which of them has least room."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from vram_planner.architecture.parallel import rank_weight_bytes, stage_layers, table_bytes
from vram_planner.architecture.precision import Place
from vram_planner.engines.memo import once
from vram_planner.engines.vllm_weights import as_held

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.parallel import Layout
    from vram_planner.architecture.precision import Precision
    from vram_planner.engines.base import Ask


_FAMILIES = Path(__file__).parent / "families" / "vllm_stages.json"
_VOCABULARY_MULTIPLE = 64


@lru_cache(maxsize=1)
def _families() -> dict[str, list[str]]:
    known: dict[str, list[str]] = json.loads(_FAMILIES.read_text(encoding="utf-8"))
    return known


def stage_weights(ask: Ask) -> tuple[int, ...]:
    """
    Bytes of the weights of a rank of each pipeline stage.

    Llama and most others hold the embedding on the first stage, head and last norm on the last; the families of
    families/vllm_stages.json make them on each, with what is beside the embedding (of Gemma 3n's and Gemma 4's
    tables for each layer the later stages hold less). Source: vLLM 0.32 model_executor/models (is_first_rank, is_last_rank).
    """
    return _stage_weights(ask.architecture, ask.precision, ask.layout)


@once
def _stage_weights(architecture: Architecture, stored: Precision, layout: Layout) -> tuple[int, ...]:
    model, precision = as_held(architecture, stored, layout)
    totals = list(rank_weight_bytes(model, precision, layout))
    if len(totals) == 1 or model.model_type not in _families()["embedding"]:
        return tuple(totals)
    embedding, head = table_bytes(model, precision, layout, _VOCABULARY_MULTIPLE)
    norms = sum(precision.weight_bytes(weight, Place(model, None)) for weight in model.final_norm)
    norms = 0 if model.model_type in _families()["last_norm"] else norms
    last = len(totals) - 1
    for index in range(len(totals)):
        has_embedding = index == 0 or (index == last and model.tied_head)
        totals[index] += 0 if has_embedding else embedding
        if index != last:
            totals[index] += norms + (head if model.model_type in _families()["head"] else 0)
    return tuple(totals)


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
