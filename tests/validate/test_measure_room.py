"""The room that a GPU's meter takes before random weights, with a stand-in for torch."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

from vram_planner.validate.measure import CudaMeter


def test_one_block_of_the_models_size_is_taken_before_random_weights() -> None:
    taken: list[tuple[int, str]] = []
    places: list[str] = []

    def device(name: str) -> Any:
        places.append(name)
        return nullcontext()

    def empty(count: int, *, dtype: int, device: str) -> None:
        taken.append((count * dtype, device))

    torch = SimpleNamespace(device=device, empty=empty, float16=2)
    weights = [SimpleNamespace(nbytes=n_bytes) for n_bytes in (600, 200)]

    CudaMeter(torch).make_room(lambda: SimpleNamespace(parameters=lambda: iter(weights)))

    assert (places, taken) == (["meta"], [(800, "cuda")])
