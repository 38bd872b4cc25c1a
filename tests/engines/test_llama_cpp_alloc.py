"""ggml's graph allocator, step by step."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vram_planner.engines.llama_cpp_alloc import Graph


def test_a_chain_needs_two_neighbours_at_a_time() -> None:
    """128 → 256 → 128: the last one fits where the first was."""
    graph = Graph()
    last = graph.tensor(128, graph.tensor(256, graph.tensor(128)))
    graph.expand(last)
    graph.keep(last)

    assert graph.peak() == 384


def test_writing_over_the_only_input_costs_nothing() -> None:
    graph = Graph()
    graph.expand(graph.in_place(graph.tensor(1000)))

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
    graph.expand(first, wall)
    graph.use(first)
    large = graph.tensor(256)
    graph.use(wall, large)

    assert graph.peak() == 512


def test_neighbouring_gaps_become_one() -> None:
    graph = Graph()
    first, second, wall = graph.tensor(128), graph.tensor(128), graph.tensor(128)
    graph.expand(first, second, wall)
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
    graph.expand(*previous)
    aligned = [-(-size // 128) * 128 for size in sizes]

    assert max(aligned) <= graph.peak() <= sum(aligned)


def test_what_goes_in_comes_first_in_the_order() -> None:
    """The third tensor is asked for first, so the first two take their places before it."""
    graph = Graph()
    left, right = graph.tensor(256), graph.tensor(128)
    graph.expand(graph.tensor(128, left, right))
    graph.use(left)

    assert graph.peak() == 512


def test_a_matrix_from_another_device_lives_in_one_split() -> None:
    """Two products of 128 bytes with copied matrices of 1024: the second copy takes the place of the first."""
    graph = Graph()
    stream = graph.tensor(128)
    for _ in range(2):
        stream = graph.tensor(128, graph.copied(1024, matrix=True), stream)
    graph.expand(stream)

    assert graph.peak() == 128 + 1024 + 128


def test_copies_of_inputs_are_made_when_their_split_starts() -> None:
    """The mask is there before the first tensor, although only the second reads it."""
    graph = Graph()
    mask = graph.copied(512)
    graph.expand(graph.tensor(128, graph.tensor(256), mask))

    assert graph.peak() == 512 + 256 + 128


def test_a_range_of_no_size_can_keep_gaps_apart() -> None:
    """As in ggml: it is taken from the start of a gap and given back as a gap of its own."""
    graph = Graph()
    first, second = graph.tensor(128), graph.tensor(128)
    graph.expand(first, second)
    graph.nothing()
    graph.use(first, second)

    assert graph.peak() == 256
