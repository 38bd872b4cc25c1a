"""Our own matcher against Python's `re`, and against patterns that `re` would not come back from."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.errors import PrecisionError
from vram_planner.model_profiles.patterns import Pattern

HANG_S = 10  # only a hang is caught here; benchmarks/headers.py times the readers

ATOMS = ["a", "b", ".", r"\.", r"\d", "[ab]", "[^a]", "[0-9]", "1", "^", "$", "(?!a)", "(?=b)", "(?:ab|b)"]
REPEATS = ["", "", "*", "+", "?", "{2}", "{1,2}", "*?"]


def repeated(atom: str, repeat: str) -> str:
    return atom if atom in "^$" or atom.startswith(("(?!", "(?=")) else atom + repeat


PIECES = st.builds(repeated, st.sampled_from(ATOMS), st.sampled_from(REPEATS))
SEQUENCES = st.lists(PIECES, min_size=1, max_size=4).map("".join)
SOURCES = st.recursive(
    SEQUENCES, lambda inner: st.builds(lambda a, b, c: f"({a}|{b}){c}", inner, inner, inner), max_leaves=6
)


@given(SOURCES, st.text("ab.1", max_size=8))
def test_it_matches_what_re_matches(source: str, name: str) -> None:
    expression, ours = re.compile(source), Pattern(source)

    assert ours.starts(name) is bool(expression.match(name))
    assert ours.covers(name) is bool(expression.fullmatch(name))
    assert ours.within(name) is bool(expression.search(name))


@pytest.mark.parametrize("source", ["(a+)+$", "(a|a)*b", "((a*)*)*b", "(.*a){10}b"])
def test_no_pattern_takes_long(source: str) -> None:
    """Python's `re` would need 2**200 steps for the first of them."""
    began = time.perf_counter()

    assert not Pattern(source).covers("a" * 200 + "c")
    assert time.perf_counter() - began < HANG_S


@pytest.mark.parametrize(
    "source",
    [
        "(",
        ")",
        "a)",
        "[a",
        "*",
        "a**" * 9 + "(",
        "a{,2}",
        "a{3,}",
        "a{2,1}",
        r"\b",
        r"\1",
        "(?P<n>a)",
        "a" * 999,
    ],
)
def test_what_is_not_read_is_refused(source: str) -> None:
    with pytest.raises(PrecisionError) as error:
        Pattern(source)

    assert error.value.hint


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(source: str) -> None:
    try:
        ours = Pattern(source)
    except PrecisionError:
        return
    assert ours.covers("layers.0") in (True, False)
