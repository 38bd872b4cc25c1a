"""request -> what each of several cards takes, where transformers deals a model out over cards that are not all alike."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.parallel import Layout
from vram_planner.engines.base import Device
from vram_planner.engines.transformers import Transformers
from vram_planner.errors import RequestError
from vram_planner.planning.estimate import prepare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vram_planner.engines.transformers_cards import OneCard
    from vram_planner.planning.request import PlanRequest


def by_card(
    request: PlanRequest, free_bytes: Sequence[int], compute_capability: tuple[int, int] | None = None
) -> tuple[tuple[OneCard, ...], int]:
    """
    What each card takes of a model that `device_map="auto"` deals out, and the bytes that are left to the CPU's memory.

    `free_bytes` is what each card has free, as `max_memory` tells it. Raises RequestError for another engine than
    transformers, and what `estimate` raises.
    """
    prepared = prepare(request)
    if not isinstance(prepared.engine, Transformers):
        raise RequestError(
            f"{prepared.engine.title} deals no layers out over unlike cards", hint="use --engine transformers"
        )
    device = Device(name="", total_bytes=max(free_bytes), compute_capability=compute_capability)
    ask = replace(prepared.ask, layout=Layout(tp=len(free_bytes)), device=device)
    return prepared.engine.by_card(ask, free_bytes)
