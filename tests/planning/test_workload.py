"""Lengths of requests: as numbers, as lognormals, as presets with their sources."""

from __future__ import annotations

from math import exp, log
from random import Random
from statistics import fmean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.errors import PlannerError
from vram_planner.planning.workload import (
    Fixed,
    Lengths,
    Lognormal,
    Table,
    lengths_of,
    parse_lengths,
    presets,
)


def test_a_number_is_always_the_same() -> None:
    assert parse_lengths("4K") == Fixed(4096)
    assert Fixed(7).at(0.99) == 7


def test_a_lognormal_by_median_and_p90() -> None:
    found = parse_lengths("lognormal:median=500,p90=2000")

    assert isinstance(found, Lognormal)
    assert found.at(0.5) == pytest.approx(500)
    assert found.at(0.9) == pytest.approx(2000)


@given(mean=st.floats(10, 10_000), sigma=st.floats(0.05, 1.2))
def test_a_lognormal_by_mean_and_p90_has_both(mean: float, sigma: float) -> None:
    p90 = mean * exp(1.2815515655446004 * sigma - sigma * sigma / 2)
    found = (
        Lognormal.of(mean=mean, p90=max(mean, p90)) if p90 >= mean else Lognormal.of(mean=mean, sigma=sigma)
    )

    assert found.median * exp(found.sigma**2 / 2) == pytest.approx(mean)
    if p90 >= mean:
        assert found.at(0.9) == pytest.approx(p90)


@pytest.mark.parametrize(
    "text",
    ["lognormal", "lognormal:median=5", "lognormal:median=5,p90=4", "lognormal:mean=5,p90=50",
     "lognormal:median=5,p90=9,sigma=1", "lognormal:median=x,p90=9", "lognormal:median=5,sigma=nan",
     "lognormal:median=5,sigma=-1", "0", "-3", "much", "lognormal:median=5,median=6,p90=9", "9" * 40],
)  # fmt: skip
def test_what_no_length_is_is_refused(text: str) -> None:
    with pytest.raises(PlannerError):
        parse_lengths(text)


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_lengths(text)
    except PlannerError:
        return
    assert found.longest >= 1


def test_a_table_goes_through_its_points() -> None:
    table = Table((0.0, 0.5, 1.0), (10.0, 20.0, 60.0))

    assert [table.at(share) for share in (0, 0.25, 0.5, 0.75, 1)] == [10, 15, 20, 40, 60]


@pytest.mark.parametrize(
    ("name", "prompt", "output"),
    # Medians and means of the traces that the source of each names, counted over all their rows.
    [("chat", (1020, 1154.7), (129, 211.1)), ("code", (1469, 2047.8), (13, 27.9)),
     ("documents", (6909, 12035.1), (350, 342.6)), ("reasoning", (208, 1268.2), (792, 1527.4))],
)  # fmt: skip
def test_presets_draw_as_their_traces(
    name: str, prompt: tuple[float, float], output: tuple[float, float]
) -> None:
    lengths, random = presets()[name], Random(0)
    drawn = [lengths.draw(random, lengths.longest)[:2] for _ in range(40_000)]

    for values, (middle, mean) in zip(zip(*drawn, strict=True), (prompt, output), strict=True):
        assert median(values) == pytest.approx(middle, rel=0.05)
        # Straight lines between the quantiles make long tails a little heavier.
        assert fmean(values) == pytest.approx(mean, rel=0.06)


def test_every_preset_says_where_it_is_from() -> None:
    for name, lengths in presets().items():
        assert lengths.basis in ("measured", "assumed"), name
        assert ("https://" in lengths.source) == (name != "rag"), name
        assert lengths.basis == ("assumed" if name in ("rag", "agent") else "measured")


def test_a_request_is_cut_to_the_context() -> None:
    lengths = Lengths(name="x", prompt=Fixed(90), output=Fixed(30))

    assert lengths.draw(Random(0), 120) == (90, 30, False)
    assert lengths.draw(Random(0), 100) == (90, 10, True)
    assert lengths.draw(Random(0), 50) == (49, 1, True)


def test_means_are_those_of_the_cut_requests() -> None:
    assert Lengths(name="x", prompt=Fixed(90), output=Fixed(30)).means(100) == (90, 10)
    prompt, output = presets()["chat"].means(15_050)
    assert prompt == pytest.approx(1154.7, rel=0.03)
    assert output == pytest.approx(211.1, rel=0.03)


def test_a_length_beside_a_preset_replaces_its_own() -> None:
    found = lengths_of("chat", output_tokens="50")

    assert found.output == Fixed(50)
    assert found.prompt == presets()["chat"].prompt
    assert found.basis == "asked"


@pytest.mark.parametrize("workload", [None, "chatt", "/nowhere/x.csv"])
def test_an_unknown_workload_is_refused_with_the_known_ones(workload: str | None) -> None:
    with pytest.raises(PlannerError) as refused:
        lengths_of(workload)

    assert refused.value.hint


def test_a_lognormal_is_cut_at_its_last_thousandth() -> None:
    found = Lognormal(median=100.0, sigma=log(2))

    assert found.longest == round(found.at(0.999))
