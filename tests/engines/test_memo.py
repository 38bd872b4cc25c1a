from __future__ import annotations

from vram_planner.architecture.parallel import Layout
from vram_planner.engines.memo import once


def test_objects_are_told_apart_by_identity_and_layouts_by_value() -> None:
    asked: list[object] = []

    @once
    def found(what: list[int], layout: Layout) -> int:
        asked.append(what)
        return sum(what) * layout.tp

    first, second = [1, 2], [1, 2]

    assert [found(first, Layout(tp=2)), found(first, Layout(tp=2)), found(second, Layout(tp=2))] == [6, 6, 6]
    assert found(first, Layout(tp=3)) == 9
    assert asked == [first, second, first]


def test_the_oldest_answer_is_forgotten() -> None:
    asked: list[int] = []

    @once
    def found(number: int) -> int:
        asked.append(number)
        return -number

    for number in (*range(65), 0, 64):
        assert found(number) == -number
    assert asked == [*range(65), 0]
