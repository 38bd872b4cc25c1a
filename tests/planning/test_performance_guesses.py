"""What drafting and found prefixes do to a plan's speed, against the closed forms."""

from __future__ import annotations

from typing import Any

import pytest

import vram_planner as vp
from vram_planner.errors import RequestError
from vram_planner.planning.performance import Assumptions
from vram_planner.planning.performance_guesses import guess_cost

ASKED: dict[str, Any] = {"model": "deepseek-ai/DeepSeek-V3", "ctx": 8192, "concurrency": 4, "gpu": "8x H200"}


def _times(**options: Any) -> tuple[float, float]:
    served = vp.plan(**{**ASKED, **options}).served
    assert served is not None
    found = served.times()
    assert found is not None
    return found.ttft_s, found.tpot_s


def test_without_an_acceptance_the_speed_is_that_without_drafting_and_says_so() -> None:
    plan = vp.plan(**ASKED, speculative="mtp")

    assert _times(speculative="mtp")[1] == pytest.approx(_times()[1], rel=0.01)
    assert any("--acceptance" in line for line in plan.not_modelled)
    assert not any("--acceptance" in line for line in vp.plan(**ASKED).not_modelled)


def test_guesses_that_are_never_accepted_cost_and_all_accepted_pay() -> None:
    alone = _times()[1]
    none, some, every = (
        _times(speculative="mtp", speculative_tokens=1, acceptance=share)[1] for share in (0.0, 0.6, 1.0)
    )

    assert none > alone > some > every > alone / 2


def test_an_mtp_layer_costs_its_share_of_the_layers_and_the_head() -> None:
    # One guess, never accepted: each token takes a checked step and the guess.
    plan = vp.plan(**ASKED, speculative="mtp", acceptance=0.0)
    assert plan.served is not None
    load = plan.served.load(Assumptions())
    served = plan.model.architecture
    by_hand = (served.active_parameters / 61 + 129_280 * 7168) / served.active_parameters

    assert load.draft == 1
    assert load.draft_cost == pytest.approx(by_hand)


def test_n_grams_cost_nothing_and_a_small_model_its_share() -> None:
    def cost(**options: Any) -> float:
        plan = vp.plan("32b", ctx=4096, concurrency=1, gpu="B200", acceptance=0.5, **options)
        assert plan.served is not None
        return guess_cost(plan.served.ask)

    assert cost(speculative="ngram", speculative_tokens=3) == 0
    ours, theirs = 7_615_616_512, 32_763_876_352
    assert cost(draft_model="7b", speculative_tokens=3) == pytest.approx(ours / theirs)


def test_a_found_prefix_saves_first_token_time() -> None:
    assert _times(prefix_hit=0.9)[0] < 0.75 * _times()[0]
    assert _times(prefix_hit=0.0) == _times()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"acceptance": 0.5}, "says nothing without drafting"),
        ({"speculative": "mtp", "acceptance": 1.5}, "is no share"),
        ({"speculative": "mtp", "acceptance": True}, "is no share"),
        ({"prefix_hit": 1.0}, "is no share"),
        ({"prefix_hit": float("nan")}, "is no share"),
        ({"prefix_hit": 0.5, "engine": "transformers"}, "has no --prefix-hit here"),
    ],
)
def test_what_is_no_share_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        vp.plan(**{**ASKED, **options})


def test_sizing_takes_both_and_says_what_it_left_out() -> None:
    asked: dict[str, Any] = {"users": 20, "ctx": 8192, "gpus": ["H100"], "ttft_s": 1.0}
    plain, hits = vp.size("8b", **asked), vp.size("8b", **asked, prefix_hit=0.8)
    assert plain.best is not None
    assert hits.best is not None

    assert hits.best.ttft_s.best < plain.best.ttft_s.best
    assert any("--prefix-hit" in line for line in plain.not_modelled)
    assert not any("--prefix-hit" in line for line in hits.not_modelled)
    assert vp.size("8b", users=2, gpus=["B200"], workload="agent").request.options["prefix_hit"] > 0.9


def test_all_that_the_speed_leaves_out_is_said_not_the_first_alone() -> None:
    plan = vp.plan(
        "8b",
        ctx=4096,
        concurrency=1,
        gpu="H100",
        speculative="ngram",
        speculative_tokens=2,
        cpu_offload="1GiB",
    )

    assert sum("--acceptance" in line or "bus's nameplate" in line for line in plan.not_modelled) == 2
