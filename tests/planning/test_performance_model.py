"""Relations that hold for any constants, and steps computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vram_planner as vp
from vram_planner.planning.performance_model import (
    Card,
    Constants,
    Load,
    band_class,
    decode_step,
    prefill_step,
    times,
)
from vram_planner.planning.performance_work import Experts, Kept, Work

CARD = Card(bandwidth=2e12, flops=300e12, flops_16=300e12, link_bytes_per_s=300e9, host_bytes_per_s=50e9)
LOAD = Load(prompt=1024, output=256, concurrency=16, room=64, most=256)
WORK = Work(
    layers=32,
    expert_layers=0,
    dense_bytes=15e9,
    experts=(),
    matrix_flops=15e9,
    expert_flops=0.0,
    head_flops=1e9,
    kept=(Kept(131_072, None, None),),
    state_bytes=0.0,
    mixers=(),
    activation_bytes=8192,
)
EVEN = Constants(
    bandwidth_share=0.75,
    cache_share=0.5,
    compute_share=0.5,
    decode_share=0.5,
    layer_s=50e-6,
    step_s=1e-3,
    sequence_s=0.0,
)


def test_a_step_by_hand() -> None:
    """15 GB at 1.5 TB/s + 4 · 1000 · 131,072 B at 1 TB/s; 4 · 16 GFLOP at 75 TFLOP/s; 1 ms + 32 · 50 µs."""
    step = decode_step(WORK, CARD, EVEN, batch=4, context=1000)

    assert step.memory_s == pytest.approx(0.010 + 0.000524288)
    assert step.compute_s == pytest.approx(64e9 / 75e12)
    assert step.fixed_s == pytest.approx(0.0026)
    assert step.link_s == 0
    assert step.total_s == pytest.approx(sum(step))


def test_an_eager_step_is_at_least_its_launches() -> None:
    """1 ms + 32 · 1 ms of launches hide 10.1 ms of the card's work; behind 1 µs launches nothing changes."""
    slow, fast = replace(EVEN, eager_layer_s=1e-3), replace(EVEN, eager_layer_s=1e-6)

    eager = decode_step(WORK, CARD, slow, batch=1, context=1000, eager=True)
    assert eager.total_s == pytest.approx(0.033)
    assert decode_step(WORK, CARD, slow, batch=1, context=1000) == decode_step(
        WORK, CARD, fast, batch=1, context=1000, eager=True
    )


def test_launches_bound_a_short_prompt_and_not_a_long_one() -> None:
    launched = replace(EVEN, eager_layer_s=1e-3)

    assert prefill_step(WORK, CARD, launched, start=0, end=16).total_s == pytest.approx(0.033)
    assert prefill_step(WORK, CARD, launched, start=0, end=8192) == prefill_step(
        WORK, CARD, EVEN, start=0, end=8192
    )


def test_whose_errors_a_figure_has() -> None:
    small = replace(WORK, dense_bytes=1e9, matrix_flops=1e9)

    assert band_class(WORK, CARD, EVEN, "dense") == "dense"
    assert band_class(small, CARD, EVEN, "dense") == "host"
    assert band_class(small, CARD, EVEN, "experts") == "experts"
    assert band_class(WORK, CARD, EVEN, "dense", waits=True) == "waiting"


def test_all_reduces_by_hand() -> None:
    """On 2 ranks 64 collectives of 2 · ½ · 8192 B each: 10 µs and 8192 B at 150 GB/s."""
    step = decode_step(replace(WORK, tp=2), CARD, EVEN, batch=1, context=1)

    assert step.link_s == pytest.approx(64 * (10e-6 + 8192 / 150e9))


def test_groups_exchange_the_tokens_of_all_by_hand() -> None:
    """2 groups of 2 ranks, 8 of 32 layers with experts: 2 · 32 − 8 all-reduces, 8 times ¾ of 2 groups' tokens out and back."""
    work = replace(WORK, tp=2, expert_layers=8, groups=2, exchange=4)
    step = decode_step(work, CARD, EVEN, batch=3, context=1)
    sent = 2 * 3 * 8192

    reduced = 56 * (10e-6 + 0.5 * sent / 150e9)
    assert step.link_s == pytest.approx(reduced + 8 * (20e-6 + 2 * 0.75 * sent / 150e9))


def test_experts_of_groups_see_the_tokens_of_all() -> None:
    experts = (Experts(800.0, 2, 8),)

    assert replace(WORK, experts=experts, groups=2).weight_bytes(1) == pytest.approx(15e9 + 350)


def test_experts_touched() -> None:
    """Of 8 experts one token uses 2; two tokens 1 − (6/8)² = 7/16 of them."""
    experts = Experts(800.0, 2, 8)

    assert experts.touched(1) == pytest.approx(200)
    assert experts.touched(2) == pytest.approx(350)
    assert experts.touched(1000) == pytest.approx(800)


def test_weights_on_the_host_bind() -> None:
    here = times(WORK, CARD, EVEN, replace(LOAD, concurrency=1))
    there = times(replace(WORK, dense_bytes=5e9, host_bytes=10e9), CARD, EVEN, replace(LOAD, concurrency=1))

    assert there.tpot_s > here.tpot_s + 0.15


def test_groups_yield_their_throughput_together() -> None:
    one = times(WORK, CARD, EVEN, LOAD)
    four = times(WORK, CARD, EVEN, replace(LOAD, groups=4))

    assert four.output_tokens_per_s == pytest.approx(4 * one.output_tokens_per_s)
    assert (four.ttft_s, four.tpot_s) == (one.ttft_s, one.tpot_s)


def test_an_engine_that_looks_seldom_answers_later() -> None:
    often, seldom = (times(WORK, CARD, EVEN, replace(LOAD, held=steps)) for steps in (0.0, 14.5))
    step = decode_step(WORK, CARD, EVEN, batch=16, context=1024 + 128).total_s + 16 * EVEN.stream_s

    assert seldom.ttft_s - often.ttft_s == pytest.approx(14.5 * step)


def test_a_client_in_the_engines_process_hides_behind_the_card() -> None:
    near = replace(LOAD, embedded=True)
    quick, slow = (times(WORK, CARD, replace(EVEN, near_stream_s=each), near) for each in (1e-9, 10e-3))

    assert slow.tpot_s > quick.tpot_s + 16 * 9e-3
    assert quick.tpot_s == pytest.approx(times(WORK, CARD, EVEN, replace(LOAD, streamed=False)).tpot_s)


def test_a_found_prefix_saves_prefill() -> None:
    assert (
        times(WORK, CARD, EVEN, replace(LOAD, prefix_hit=0.9)).ttft_s < times(WORK, CARD, EVEN, LOAD).ttft_s
    )


def test_accepted_guesses_speed_up_decoding_of_one() -> None:
    alone = replace(LOAD, concurrency=1)
    guessed = replace(alone, draft=3, acceptance=0.8)

    assert times(WORK, CARD, EVEN, guessed).tpot_s < times(WORK, CARD, EVEN, alone).tpot_s
    assert (
        times(WORK, CARD, EVEN, replace(guessed, acceptance=0.0)).tpot_s
        > times(WORK, CARD, EVEN, alone).tpot_s
    )


@given(st.floats(1.0, 8.0), st.integers(1, 300), st.integers(1, 4096), st.integers(1, 2048))
def test_more_bandwidth_is_never_slower(factor: float, concurrency: int, prompt: int, output: int) -> None:
    load = replace(LOAD, concurrency=concurrency, prompt=prompt, output=output)
    slow = times(WORK, CARD, EVEN, load)
    fast = times(WORK, replace(CARD, bandwidth=CARD.bandwidth * factor), EVEN, load)

    assert fast.output_tokens_per_s >= slow.output_tokens_per_s * (1 - 1e-9)
    assert fast.prefill_s <= slow.prefill_s * (1 + 1e-9)


@given(st.integers(1, 63), st.integers(1, 8192), st.integers(1, 2048))
def test_more_concurrency_never_lowers_the_total_while_there_is_room(
    concurrency: int, prompt: int, output: int
) -> None:
    load = replace(LOAD, prompt=prompt, output=output)
    fewer = times(WORK, CARD, EVEN, replace(load, concurrency=concurrency))
    more = times(WORK, CARD, EVEN, replace(load, concurrency=concurrency + 1))

    assert more.output_tokens_per_s >= fewer.output_tokens_per_s * (1 - 1e-9)
    assert more.per_user_tokens_per_s <= fewer.per_user_tokens_per_s * (1 + 1e-9)


def test_past_the_room_requests_wait_and_the_total_stands() -> None:
    full = times(WORK, CARD, EVEN, replace(LOAD, concurrency=100))
    fuller = times(WORK, CARD, EVEN, replace(LOAD, concurrency=200))

    assert full.waits
    assert fuller.tpot_s == pytest.approx(full.tpot_s)
    assert fuller.output_tokens_per_s == pytest.approx(full.output_tokens_per_s)
    assert fuller.ttft_s > full.ttft_s


def test_littles_law_at_an_arrival_rate() -> None:
    found = times(WORK, CARD, EVEN, replace(LOAD, rate=1.0))

    assert found.batch == pytest.approx(found.ttft_s + LOAD.output * found.tpot_s, rel=1e-3)


def test_arrivals_that_outrun_the_server_wait_for_half_of_the_run() -> None:
    """The middle one of 300 waits 150 · (1/μ − 1/λ) longer than in a run of no length."""
    rate = 40.0
    endless = times(WORK, CARD, EVEN, replace(LOAD, rate=rate))
    run = times(WORK, CARD, EVEN, replace(LOAD, rate=rate, requests=300))
    served = endless.output_tokens_per_s / LOAD.output

    assert served < rate
    assert run.waits
    assert run.ttft_s - endless.ttft_s == pytest.approx(150 * (1 / served - 1 / rate))


def test_of_experts_on_the_host_only_those_touched_are_read() -> None:
    """R1 in 1.58 bits with all experts on the host: 8 of 256 are some 4 GB a token, not 120."""
    plan = vp.plan(
        "671b", engine="llama.cpp", quant="1.58bit", ctx=8192, concurrency=1, gpu="RTX 4090", n_cpu_moe=61
    )
    assert plan.performance is not None

    experts, host = 120.4 * 2**30, 80e9
    least = experts * 8 / 256 / host
    assert least < plan.performance.tpot_s.best < 5 * least


def test_layers_on_the_host_cost_what_the_host_reads() -> None:
    def tpot(ngl: int) -> float:
        plan = vp.plan(
            "7b", engine="llama.cpp", quant="q4_k_m", ctx=4096, concurrency=1, gpu="RTX 4090", ngl=ngl
        )
        assert plan.performance is not None
        return plan.performance.tpot_s.best

    some, none = tpot(15), tpot(0)
    assert tpot(29) < some < none
    assert none > 4.0e9 / 80e9  # 4.1 GB of weights beside the input embedding, at 80 GB/s


def test_scores_that_are_written_out_by_hand() -> None:
    """A decoded token: 1024 heads · 1000 · 200 ps. A prompt of 512 from 512 on: 1024 · 512 · 1024 · 28 B at 1.5 TB/s more."""
    work, fitted = replace(WORK, score_heads=1024.0), replace(EVEN, score_s=2e-10, score_bytes=28.0)

    decoded = [decode_step(each, CARD, fitted, batch=3, context=1000).memory_s for each in (WORK, work)]
    filled = [prefill_step(each, CARD, fitted, start=512, end=1024).memory_s for each in (WORK, work)]
    assert decoded[1] - decoded[0] == pytest.approx(3 * 1024 * 1000 * 2e-10)
    assert filled[1] - filled[0] == pytest.approx(1024 * 512 * 1024 * 28 / 1.5e12)


def test_what_a_prompt_moves_beside_its_products_by_hand() -> None:
    """20 GB to unpack weights a step, and for 512 tokens 2.5 million elements of 8 B each, all at 1.5 TB/s."""
    work, fitted = replace(WORK, unpacked_bytes=20e9, ends=2.5e6), replace(EVEN, end_bytes=8.0)

    steps = [prefill_step(each, CARD, fitted, start=0, end=512) for each in (WORK, work)]
    assert steps[1].memory_s - steps[0].memory_s == pytest.approx((20e9 + 512 * 2.5e6 * 8) / 1.5e12)
    assert steps[1].compute_s == steps[0].compute_s
    assert decode_step(work, CARD, fitted, batch=1, context=9) == decode_step(
        WORK, CARD, fitted, batch=1, context=9
    )


def test_the_padding_of_experts_by_hand() -> None:
    """512 tokens, 4 of 128 experts each: 16 tokens an expert in tiles of 64 are four times the arithmetic."""
    work = replace(WORK, experts=(Experts(60e9, 4, 128),), expert_flops=5e9)
    fitted = replace(EVEN, expert_compute=0.5, expert_share=0.8)

    plain = prefill_step(work, CARD, fitted, start=0, end=512)
    padded = prefill_step(replace(work, expert_tile=64.0), CARD, fitted, start=0, end=512)
    products = 512 * 5e9 / (150e12 * 0.5)
    assert padded.compute_s - plain.compute_s == pytest.approx(3 * products, rel=1e-4)
    read = 60e9 / (1.5e12 * 0.8)
    assert padded.memory_s > (read**4 + (4 * products) ** 4) ** 0.25 - 4 * products


def test_routers_that_favour_experts_touch_fewer() -> None:
    work = replace(WORK, experts=(Experts(60e9, 4, 128),))
    even, favouring = EVEN, replace(EVEN, expert_spread=0.75)

    alone = [decode_step(work, CARD, each, batch=1, context=1) for each in (even, favouring)]
    many = [decode_step(work, CARD, each, batch=16, context=1).memory_s for each in (even, favouring)]
    assert alone[0] == alone[1]
    assert many[1] == pytest.approx(
        many[0] - (Experts(60e9, 4, 128).touched(16) - Experts(60e9, 4, 128).touched(8)) / 1.5e12 / 0.8
    )
