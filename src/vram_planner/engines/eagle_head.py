"""The tensors of an EAGLE or EAGLE-3 head on one rank, as vLLM, SGLang and TensorRT-LLM load it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.parallel import table_bytes, weights_on_rank
from vram_planner.architecture.precision import Place
from vram_planner.architecture.weight import Role, linear

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.parallel import Layout

_VOCABULARY_MULTIPLE = 64


def head_bytes(draft: Architecture, layout: Layout) -> int:
    """
    Layers and what is beside them, without an embedding.

    EAGLE-3 has fc, layers, a norm and a head of its own; EAGLE fc (H, 2·H) and layers, the first without its first norm,
    and the target's head.
    """
    place = Place(draft, None)
    weights = [weight for layer in draft.layers for weight in layer.weights]
    if draft.model_type != "eagle3":
        weights += linear("fc", draft.hidden, 2 * draft.hidden, role=Role.JOIN)
        first = weights_on_rank(draft.layers[0].norms[:1], draft.precision, place, layout)
        return weights_on_rank(weights, draft.precision, place, layout) - first
    weights += [*draft.final_norm, *draft.embedding_extras]
    own = [weight for weight in weights if weight.role is Role.HEAD]
    rest = [weight for weight in weights if weight.role is not Role.HEAD]
    _, head = table_bytes(
        replace(draft, vocabulary=own[0].shape[0], tied_head=False),
        draft.precision,
        layout,
        _VOCABULARY_MULTIPLE,
    )
    return weights_on_rank(rest, draft.precision, place, layout) + head
