from __future__ import annotations

import csv
import io
import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

import vram_planner as vp
from vram_planner.errors import PlannerError, RequestError
from vram_planner.planning.performance import Assumptions
from vram_planner.planning.prices import Buying

ASKED: dict[str, Any] = {
    "ctx": 8192,
    "users": 60,
    "ttft_s": 1.0,
    "tpot_s": 0.05,
    "gpus": ["H100", "L40S", "L4"],
}


def sized(model: str = "7b", **more: Any) -> Any:
    return vp.size(model, **{**ASKED, **more})


def test_every_option_keeps_what_was_asked() -> None:
    found = sized()

    assert found.met
    for option in found.options:
        assert option.verdict in ("fits", "may fit")
        assert option.headroom_bytes >= 0
        assert option.in_flight == 60  # no think time: each user has one
        assert option.at_once >= 60
        assert option.ttft_s.best <= 1.0
        assert option.tpot_s.best <= 0.05
        assert option.carries >= 60
        if option.surely:
            assert option.ttft_s.high <= 1.0
            assert option.tpot_s.high <= 0.05


def test_an_option_is_what_the_plan_of_one_replica_says() -> None:
    option = sized().options[0]
    plan = vp.plan(
        "7b", ctx=8192, concurrency=-(-60 // option.replicas), gpu=option.gpu, gpu_count=option.tp * option.pp,
        tp=option.tp, pp=option.pp,
    )  # fmt: skip
    assert plan.served is not None
    speed = plan.served.performance(Assumptions(concurrency=60 / option.replicas))

    assert speed is not None
    assert option.total_bytes == plan.total_bytes
    assert option.headroom_bytes == plan.headroom_bytes
    assert option.tpot_s.best == pytest.approx(speed.tpot_s.best)
    assert option.ttft_s.best == pytest.approx(speed.ttft_s.best)


def test_options_go_from_cheap_to_dear_and_those_without_a_price_by_cards() -> None:
    options = sized(gpus=["H100", "L40S", "RTX PRO 5000", "L4"]).options
    costs = [option.cost_per_hour for option in options]
    known = [cost for cost in costs if cost is not None]

    assert known == sorted(known)
    assert costs[: len(known)] == known
    cards = [option.gpus for option in options[len(known) :]]
    assert cards
    assert cards == sorted(cards)


def test_none_beats_an_option_of_the_front() -> None:
    options = sized().options
    for mine in options:
        beaten = any(
            other.cost_per_hour <= mine.cost_per_hour
            and other.tpot_s.best <= mine.tpot_s.best
            and other.load_headroom >= mine.load_headroom
            and (other.cost_per_hour, other.tpot_s.best, other.load_headroom)
            != (mine.cost_per_hour, mine.tpot_s.best, mine.load_headroom)
            for other in options
        )
        assert mine.pareto is not beaten


def test_littles_law_holds_for_users_who_think() -> None:
    for option in sized(think_s=20.0).options:
        stay = option.ttft_s.best + (4096 - 1) * option.tpot_s.best
        each = 60 / option.replicas

        assert option.in_flight / option.replicas == pytest.approx(each * stay / (stay + 20), rel=2e-3)


def test_littles_law_holds_for_a_rate() -> None:
    for option in sized(users=None, rate=0.5).options:
        stay = option.ttft_s.best + (4096 - 1) * option.tpot_s.best

        assert option.in_flight == pytest.approx(0.5 * stay, rel=2e-3)
        assert option.tokens_per_s.best == 0.5 * 4096


def test_more_load_never_costs_less() -> None:
    costs = [sized(users=users).options[0].cost_per_hour for users in (10, 40, 160, 640)]

    assert costs == sorted(costs)


def test_what_breaks_first_breaks_beyond_what_is_carried() -> None:
    for option in sized().options:
        more = int(option.carries) + 2 * option.replicas
        again = sized(users=more, gpus=[option.gpu]).options
        alike = [
            each for each in again
            if (each.tp, each.pp, each.replicas) == (option.tp, option.pp, option.replicas)
        ]  # fmt: skip
        assert not alike


def test_a_limit_that_nothing_keeps_leaves_the_nearest() -> None:
    found = sized(ttft_s=0.001)

    assert not found.met
    assert found.misses[0].breaks == "TTFT"
    assert found.misses[0].excess > 1
    assert found.to_dict()["met"] is False


def test_a_model_that_one_node_cannot_hold_is_laid_over_nodes() -> None:
    found = vp.size("671b", users=8, ctx=8192, gpus=["H100"])
    across = [option for option in found.options if option.pp > 1]

    assert across
    assert any(option.dp > 1 for option in found.options)
    for option in across:
        assert option.nodes == 2 * option.replicas
        assert option.link == (
            "NVLink or the like in a node, InfiniBand or RoCE (assumed, 400 Gb/s a GPU) between nodes"
        )
        assert option.network_bits_per_s == 400e9
        commands = [start.command for start in option.launch]
        assert any(command.startswith("ray start --head") for command in commands)
        assert any("--pipeline-parallel-size 2" in command for command in commands)


def test_groups_that_share_experts_lie_over_nodes_with_a_line_for_each() -> None:
    found = vp.size("671b", users=8, ctx=8192, gpus=["H100"])
    option = next(option for option in found.options if option.dp > 1)
    first, second, kubernetes = option.launch

    assert (option.nodes, option.ep, option.gpus) == (2, True, option.tp * option.dp)
    assert not option.surely
    half = option.dp // 2
    assert f"--data-parallel-size {option.dp} --enable-expert-parallel" in first.command
    assert f"--data-parallel-size-local {half} --data-parallel-address NODE_1" in first.command
    assert second.command.endswith(f"--headless --data-parallel-start-rank {half}")
    assert kubernetes.command == "a LeaderWorkerSet: replicas 1, size 2 (--format kubernetes prints it)"


@pytest.mark.parametrize("engine", ["sglang", "tensorrt-llm", "vllm"])
def test_groups_have_room_for_more_where_all_ranks_cache_the_same(engine: str) -> None:
    """Latent attention is cached whole on each of 8 ranks; eight groups cache requests of their own."""
    found = vp.size("671b", users=20, ctx=8192, gpus=["H200"], max_gpus=8, engine=engine)
    grouped = [option for option in found.options if option.dp * option.attention_dp > 1]
    plain = [option for option in found.options if option.dp * option.attention_dp == 1]

    assert grouped
    assert plain
    assert max(option.at_once for option in grouped) > 1.5 * max(option.at_once for option in plain)
    option = grouped[0]
    assert not option.surely
    plan = vp.plan(
        "671b", ctx=8192, concurrency=20, gpu="H200", gpu_count=8, engine=engine, tp=option.tp,
        dp=option.dp if option.dp > 1 else option.attention_dp, ep=option.ep, dp_attention=option.attention_dp > 1,
        prompt_tokens=4096, calibration=False,
    )  # fmt: skip
    assert plan.performance is not None
    assert option.total_bytes == plan.total_bytes
    assert option.tpot_s.best == pytest.approx(plan.performance.tpot_s.best)
    assert any("groups that share experts" in text for text in plan.not_modelled)


def test_experts_are_shared_over_nodes_only_where_servers_are_built_for_it() -> None:
    found = vp.size("671b", users=20, ctx=8192, gpus=["A40", "RTX 4090", "H100", "L40S"], max_gpus=64)
    wide = {option.gpu for option in found.options if option.tp * option.dp > 8}

    assert wide == {"NVIDIA H100 SXM5 80GB"}


def test_replicas_of_sglang_stand_behind_its_router() -> None:
    found = vp.size("7b", users=400, ctx=8192, gpus=["L4"], engine="sglang")
    option = next(option for option in found.options if option.replicas > 3)

    assert option.launch[-1].command == (
        "python -m sglang_router.launch_router --worker-urls http://REPLICA_1:30000 http://REPLICA_2:30000"
        " http://REPLICA_3:30000 ... --policy cache_aware --host 0.0.0.0"
    )
    assert option.launch[0].command.endswith(
        " --host 0.0.0.0"
    )  # 127.0.0.1 alone otherwise: no router would reach it


def test_the_sure_choice_is_one_that_was_measured() -> None:
    """Replicas of a node each stand beside one replica over two nodes, of which nobody can be sure."""
    found = vp.size("70b", ctx=16384, users=50, think_s=20, prompt_tokens=4000, output_tokens=500, ttft_s=1.0,
                    gpus=["H100"])  # fmt: skip
    sure = [option for option in found.options if option.surely]

    assert sure
    assert all(option.tp * option.pp <= 8 and not option.ep for option in sure)


def test_bought_cards_are_written_off_and_draw_power() -> None:
    option = sized(
        gpus=["L4"], buying=Buying(years=2, price=2500, power_price=0.30), utilisation=0.5
    ).options[0]
    each = 2500 / (2 * 8766) + 0.072 * 0.5 * 0.30

    assert option.cost_per_hour == pytest.approx(each * option.gpus)
    assert option.power_w == 72 * option.gpus
    assert option.cost_per_million_tokens.best == pytest.approx(
        option.cost_per_hour * 1e6 / (3600 * 0.5 * option.tokens_per_s.best)
    )


def test_rows_are_plain_columns_of_one_shape() -> None:
    rows = sized(gpus=["H100", "RTX A6000"]).to_rows()

    assert len({tuple(row) for row in rows}) == 1
    assert all(isinstance(value, str | int | float | bool | None) for row in rows for value in row.values())


def test_a_format_that_the_engine_refuses_is_left_out_and_named() -> None:
    found = sized(engine="sglang", quants=(None, "q4_k_m"))

    assert found.met
    assert "q4_k_m" in found.refused[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"users": None},
        {"users": 5, "rate": 1.0},
        {"users": 0},
        {"users": None, "rate": float("nan")},
        {"ttft_s": 0.0},
        {"think_s": -1.0},
        {"utilisation": 1.5},
        {"output_tokens": 8000},
        {"ctx": 0},
        {"gpus": ["2x H100"]},
        {"gpus": ["no such card"]},
        {"tp": 2},
        {"nonsense": 1},
        {"max_gpus": 0},
        {"users": None, "rate": "fast"},
        {"users": None, "rate": True},
        {"ttft_s": "soon"},
        {"utilisation": "0.5"},
        {"prices": 5},
        {"buying": 3},
        {"buying": Buying(price=float("nan"))},
        {"buying": Buying(price=0.0)},
        {"buying": Buying(power_price=float("nan"))},
        {"buying": Buying(power_price=float("inf"))},
        {"buying": Buying(years=0)},
        {"inter_node": 400},
        {"held_tokens": 0},
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PlannerError):
        sized(**wrong)


def test_only_models_that_cannot_be_served_are_an_error() -> None:
    with pytest.raises(PlannerError):
        sized("nobody/nothing")
    with pytest.raises(RequestError):
        vp.size([], users=1, ctx=100)


def test_llama_cpp_is_started_with_slots_for_all_that_it_carries() -> None:
    option = sized(
        "8b", engine="llama.cpp", quants=["q4_k_m"], users=10, think_s=20.0, gpus=["RTX 4090"]
    ).options[0]
    slots = int(option.launch[0].command.split("-np ")[1].split()[0])

    assert slots >= option.in_flight / option.replicas
    assert vp.plan("8b", ctx=8192, concurrency=slots, engine="llama.cpp", quant="q4_k_m", gpu="RTX 4090").fits


def test_a_single_name_and_times_as_text_are_read_too() -> None:
    one = vp.size(
        "7b", users=4, ctx="8K", gpus="L4", quants="fp8", ttft_s="2s", tpot_s="60ms", think_s="1min"
    )
    same = vp.size(
        ["7b"], users=4, ctx=8192, gpus=["L4"], quants=["fp8"], ttft_s=2.0, tpot_s=0.06, think_s=60.0
    )

    assert one.to_dict() == same.to_dict()


def test_rows_open_in_a_spreadsheet_and_results_are_frozen() -> None:
    for found in (sized(), vp.compare(["7b", "8b"], gpu="L4", ctx=4096)):
        rows = found.to_rows()
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        back = list(csv.DictReader(io.StringIO(text.getvalue())))

        assert [row["model"] for row in back] == [row["model"] for row in rows]
        assert all(set(row) == set(rows[0]) for row in back)
        json.dumps(found.to_dict(), allow_nan=False)
        with pytest.raises(FrozenInstanceError):
            found.engine = "another"  # type: ignore[misc]
