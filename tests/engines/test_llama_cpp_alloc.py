"""ggml's graph allocator, step by step."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vram_planner.engines.llama_cpp_alloc import Graph


def test_a_chain_needs_two_neighbours_at_a_time() -> None:
    """128 → 256 → 128: the last one fits where the first was."""
    graph = Graph()
    graph.keep(graph.tensor(128, graph.tensor(256, graph.tensor(128))))

    assert graph.peak() == 384


def test_writing_over_the_only_input_costs_nothing() -> None:
    graph = Graph()
    graph.keep(graph.in_place(graph.tensor(1000)))

    assert graph.peak() == 1024


def test_an_input_that_is_read_again_is_not_written_over() -> None:
    graph = Graph()
    first = graph.tensor(128)
    second = graph.in_place(first)
    graph.use(first, second)

    assert graph.peak() == 256


def test_a_gap_that_is_too_small_is_skipped() -> None:
    """The 128 bytes before `wall` are free, 256 do not fit there and go to the end."""
    graph = Graph()
    first = graph.tensor(128)
    wall = graph.tensor(128)
    graph.use(first)
    large = graph.tensor(256)
    graph.use(wall, large)

    assert graph.peak() == 512


def test_neighbouring_gaps_become_one() -> None:
    graph = Graph()
    first, second, wall = graph.tensor(128), graph.tensor(128), graph.tensor(128)
    graph.use(second)
    graph.use(first)
    graph.use(graph.tensor(256), wall)

    assert graph.peak() == 384


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=30))
def test_the_peak_lies_between_the_largest_and_the_sum(sizes: list[int]) -> None:
    graph = Graph()
    previous: tuple[int, ...] = ()
    for size in sizes:
        previous = (graph.tensor(size, *previous),)
    aligned = [-(-size // 128) * 128 for size in sizes]

    assert max(aligned) <= graph.peak() <= sum(aligned)
