"""Lengths of requests: as numbers, as lognormals, as presets with their sources."""

from __future__ import annotations

import json
from itertools import accumulate
from math import exp, log
from pathlib import Path
from random import Random
from statistics import NormalDist, correlation, fmean, median
from typing import Any

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

ORACLE = json.loads((Path(__file__).parents[1] / "oracles" / "workloads.json").read_text(encoding="utf-8"))


def draws(lengths: Lengths, random: Random) -> list[tuple[int, int]]:
    drawn = [lengths.draw(random, lengths.longest + 10_000) for _ in range(40_000)]
    assert None not in drawn
    return [(each[0], each[1]) for each in drawn if each is not None]


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
     "lognormal:median=5,sigma=-1", "0", "-3", "much", "lognormal:median=5,median=6,p90=9", "9" * 40,
     "lognormal:median=5,mean=4", "lognormal:p90=5,sigma=1", "lognormal:median=5,mean=6,p90=9", "lognormal:mean=5"],
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


@pytest.mark.parametrize("name", sorted(ORACLE["traces"]))
def test_presets_draw_as_their_traces(name: str) -> None:
    """
    Quantiles, means and correlation of the raw traces, counted over all their rows at shares that no preset holds.

    Source: tests/oracles/workloads.json names each file and commit. Tolerance: 10 % and two tokens at a quantile from 0.1
    to 0.98, 25 % beyond (straight lines between those held; traces have steps), the median and means 3 %, the correlation
    of logarithms 0.1.
    """
    trace, lengths, random = ORACLE["traces"][name], presets()[name], Random(0)
    drawn = draws(lengths, random)
    for part, values in zip(("prompt", "output"), zip(*drawn, strict=True), strict=True):
        assert fmean(values) == pytest.approx(trace[f"{part}_mean"], rel=0.03)
        assert median(values) == pytest.approx(trace[part][ORACLE["shares"].index(0.5)], rel=0.03)
        spread = getattr(lengths, part)
        for share, value in zip(ORACLE["shares"], trace[part], strict=True):
            near = 0.1 if 0.1 <= share <= 0.98 else 0.25
            assert spread.at(share) == pytest.approx(value, rel=near, abs=2), (part, share)
    together = correlation(*zip(*((log(prompt), log(output)) for prompt, output in drawn), strict=True))
    assert together == pytest.approx(trace["correlation"], abs=0.1)


def test_prompts_of_an_agent_are_those_of_the_published_bins() -> None:
    """
    Cached prefixes by the bins, median and p99 of TraceLab's Codex steps; beside each what its bin appends.

    Source: the pages and the commit that tests/oracles/workloads.json names. Tolerance 1 % at each quantile.
    """
    told, found = ORACLE["agent"], presets()["agent"]
    knots = agent_knots(told)
    normal, prompts = NormalDist(), []
    for part in range(4000):
        share = (part + 0.5) / 4000
        right = next(at for at in range(1, len(knots)) if knots[at][0] >= share)
        (low, below), (high, above) = knots[right - 1], knots[right]
        prefix = below + (share - low) / (high - low) * (above - below)
        row = next(each for each in told["bins"] if prefix < each["below"] * 1024 or each is told["bins"][-1])
        sigma = log(row["p90"] / row["p50"]) / normal.inv_cdf(0.9)
        new = [row["p50"] * exp(sigma * normal.inv_cdf((at + 0.5) / 40)) for at in range(40)]
        prompts += [min(262_144, prefix + each) for each in new]
    prompts.sort()
    for share in (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99):
        assert found.prompt.at(share) == pytest.approx(prompts[round(share * (len(prompts) - 1))], rel=0.01)
    assert isinstance(found.output, Lognormal)
    assert found.output.median == told["output"]["p50"]
    assert found.output.median * exp(found.output.sigma**2 / 2) == pytest.approx(told["output"]["mean"])
    assert found.prefix_hit == told["cached_share"]


def agent_knots(told: dict[str, Any]) -> list[tuple[float, float]]:
    """Shares of steps up to a cached prefix of so many tokens."""
    total = sum(each["steps"] for each in told["bins"])
    ends = accumulate(each["steps"] for each in told["bins"])
    bins = [
        (end / total, min(256, each["below"]) * 1024.0) for end, each in zip(ends, told["bins"], strict=True)
    ]
    return sorted({(0.0, 0.0), *bins, (0.5, told["prefix"]["p50"]), (0.99, told["prefix"]["p99"])})


@pytest.mark.parametrize(
    ("prompt", "output"),
    # Medians and means counted over the 73 groups of clients of ServeGen, weighted by their requests.
    [((208, 1268.2), (792, 1527.4))],
)
def test_reasoning_draws_as_its_clients(prompt: tuple[float, float], output: tuple[float, float]) -> None:
    lengths, random = presets()["reasoning"], Random(0)
    drawn = draws(lengths, random)
    for values, (middle, mean) in zip(zip(*drawn, strict=True), (prompt, output), strict=True):
        assert median(values) == pytest.approx(middle, rel=0.05)
        assert fmean(values) == pytest.approx(mean, rel=0.06)


def test_every_preset_says_where_it_is_from_and_what_is_assumed() -> None:
    for name, lengths in presets().items():
        assert "https://" in lengths.source, name
        assert lengths.basis == ("measured in part" if name == "agent" else "measured"), name
        assert ("assumed is" in lengths.source) == (name == "agent"), name


@given(middle=st.floats(1, 1e5), ratio=st.floats(1, 50))
def test_a_lognormal_by_median_and_mean_has_both(middle: float, ratio: float) -> None:
    found = Lognormal.of(median=middle, mean=middle * ratio)

    assert found.at(0.5) == pytest.approx(middle)
    assert found.median * exp(found.sigma**2 / 2) == pytest.approx(middle * ratio)


def test_a_request_is_cut_to_the_context() -> None:
    lengths = Lengths(name="x", prompt=Fixed(90), output=Fixed(30))

    assert lengths.draw(Random(0), 120) == (90, 30, False)
    assert lengths.draw(Random(0), 100) == (90, 10, True)
    assert lengths.draw(Random(0), 91) == (90, 1, True)


def test_a_prompt_without_room_for_an_answer_is_refused() -> None:
    lengths = Lengths(name="x", prompt=Table((0.0, 1.0), (1.0, 200.0)), output=Fixed(30))
    drawn = [lengths.draw(Random(number), 100) for number in range(200)]

    assert all(each is None or each[0] < 100 for each in drawn)
    assert 70 < sum(each is None for each in drawn) < 130
    assert lengths.means(100)[0] == pytest.approx(50, abs=2)
    with pytest.raises(PlannerError, match="leave no room"):
        Lengths(name="x", prompt=Fixed(90), output=Fixed(30)).means(90)


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
