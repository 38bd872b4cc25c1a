"""What is asked of a sizing beside the load: head-room, room by worst or expected, the network, and why a card is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import vram_planner as vp
from vram_planner.errors import PlannerError
from vram_planner.hardware_profiles import GpuChoice, find_gpu
from vram_planner.hardware_profiles.links import Servers
from vram_planner.planning.estimate import estimate
from vram_planner.planning.performance import Assumptions
from vram_planner.planning.request import PlanRequest

if TYPE_CHECKING:
    from vram_planner.planning.sizing_option import Option

GIB = 1 << 30
ASKED: dict[str, Any] = {
    "ctx": 8192,
    "users": 60,
    "gpus": ["H100", "L40S", "L4"],
    "ttft_s": 1.0,
    "tpot_s": 0.05,
}


def sized(model: str = "7b", **more: Any) -> Any:
    return vp.size(model, **{**ASKED, **more})


# Head-room


@pytest.mark.parametrize("share", [0.2, "20%", "100 %", 3.0])
def test_every_option_has_the_head_room_that_was_asked_for(share: float | str) -> None:
    asked = float(str(share).rstrip(" %")) / (100 if isinstance(share, str) else 1)
    options = sized(headroom=share).options

    assert options
    assert all(option.load_headroom >= asked - 1e-6 for option in options)
    assert all(option.carries >= 60 * (1 + asked) - 1e-6 for option in options)


def test_head_room_in_bytes_is_left_at_the_load_that_is_carried() -> None:
    """Asked again with as many users as are carried: the bytes are still there."""
    for option in sized(headroom="4GiB").options:
        again = sized(
            headroom="4GiB", users=int(option.carries), gpus=[option.gpu], max_gpus=option.gpus
        ).options
        same = [
            each for each in again if (each.tp, each.pp, each.gpus) == (option.tp, option.pp, option.gpus)
        ]

        assert option.headroom_bytes >= 4 * GIB
        assert all(each.headroom_bytes >= 4 * GIB for each in same)


def test_head_room_never_makes_it_cheaper_and_both_kinds_may_be_asked() -> None:
    plain, share, both = (
        sized(headroom=headroom).options[0].cost_per_hour for headroom in (None, "50%", ["50%", "8GiB"])
    )

    assert plain <= share <= both


def test_what_falls_short_of_the_head_room_is_refused_and_says_so() -> None:
    found = sized(gpus=["L4"], max_gpus=8, headroom="400%")
    (refused,) = found.nearest

    assert not found.met
    assert refused.why == "headroom"
    assert "asked 400%" in refused.reason
    assert refused.gpus > 8
    assert sized(
        gpus=["L4"], max_gpus=refused.gpus, headroom="400%"
    ).met  # what it says would be needed is enough


@pytest.mark.parametrize("wrong", ["0.2", "2G", "-5%", "much", True, -0.1, ["10%", "20%"], "2%GiB", ""])
def test_a_head_room_that_cannot_be_meant_is_refused(wrong: Any) -> None:
    with pytest.raises(PlannerError):
        sized(headroom=wrong)


# Why cards are refused


def test_each_card_without_an_option_has_one_line_that_says_why() -> None:
    found = vp.size(
        "70b", ctx=16384, users=4, ttft_s=1.5, gpus=["L4", "T4", "H100", "MI300X", "GB10"], max_gpus=4
    )
    reasons = {refused.gpu: refused for refused in found.nearest}

    assert "NVIDIA L4" in reasons
    assert reasons["NVIDIA L4"].why == "memory"
    assert "GiB short on each GPU for one request of 16,384 tokens" in reasons["NVIDIA L4"].reason
    assert reasons["NVIDIA Tesla T4"].why == "card"
    assert "--dtype float16" in reasons["NVIDIA Tesla T4"].reason
    assert all("\n" not in refused.reason for refused in found.nearest)
    kept = {option.gpu for option in found.options}
    assert kept | set(reasons) == {find_gpu(name).gpu.name for name in ("L4", "T4", "H100", "MI300X", "GB10")}
    assert not kept & set(reasons)
    assert found.to_dict()["nearest"][0]["reason"] == found.nearest[0].reason


def test_what_is_short_of_memory_is_what_the_plan_says() -> None:
    (refused,) = vp.size("671b", ctx=16384, users=4, gpus=["L4"], max_gpus=32).nearest
    plan = vp.plan("671b", ctx=16384, concurrency=1, gpu="L4", gpu_count=refused.tp * refused.pp, tp=refused.tp,
                   pp=refused.pp)  # fmt: skip

    assert refused.why == "memory"
    assert plan.headroom_bytes is not None
    assert f"{-plan.headroom_bytes / GIB:.1f} GiB short" in refused.reason


def test_too_many_cards_are_counted() -> None:
    (refused,) = sized(gpus=["L4"], users=4000, max_gpus=16).nearest

    assert refused.why == "max_gpus"
    assert sized(gpus=["L4"], users=4000, max_gpus=refused.gpus).met
    assert not sized(gpus=["L4"], users=4000, max_gpus=refused.gpus - 1).met


def test_a_card_without_bfloat16_serves_in_float16_and_runs_gguf() -> None:
    assert sized(gpus=["T4"], dtype="float16", users=4, ttft_s=None, tpot_s=None).met
    assert sized(gpus=["T4"], engine="llama.cpp", quants=["q4_k_m"], users=1, ttft_s=None, tpot_s=None).met


# Room by worst and by expected


def test_room_by_expectation_is_the_simulations() -> None:
    """E[O · (P + O/2)] / E[O] tokens of each request, from other draws: within a hundredth."""
    option = vp.size("7b", workload="chat", users=20, think_s=10, gpus=["L40S"]).options[0]
    simulated = vp.simulate("7b", workload="chat", gpu="L40S", users=20, think_s=10, requests=50, runs=1).kv

    assert option.replicas == 1
    assert option.at_once_expected == pytest.approx(simulated.at_once_expected, rel=0.01)
    assert option.at_once_worst == pytest.approx(simulated.at_once_worst, rel=1e-3)


def test_both_rooms_are_told_and_the_asked_one_counts() -> None:
    asked: dict[str, Any] = {"workload": "chat", "users": 60, "think_s": 10, "gpus": ["L4"]}
    worst, expected = (vp.size("7b", room=room, **asked) for room in ("worst", "expected"))

    for found, room in ((worst, "worst"), (expected, "expected")):
        assert found.to_dict()["request"]["room"] == room
        for option in found.options:
            assert option.at_once_expected > 3 * option.at_once_worst
            assert option.at_once == (option.at_once_worst if room == "worst" else option.at_once_expected)
            assert option.in_flight <= option.at_once
            assert not option.surely or option.in_flight <= option.at_once_worst
            assert any("preempted" in text for text in option.warnings) is (room == "expected")
    assert expected.options[0].gpus < worst.options[0].gpus


def test_by_expectation_the_bytes_are_those_of_what_is_held() -> None:
    """The plan has as many full contexts as take the same bytes, and its head-room is what is left beside them."""
    (option,) = (each for each in vp.size("7b", workload="chat", users=30, think_s=10, gpus=["L4"], max_gpus=1,
                                          room="expected").options)  # fmt: skip
    full = vp.plan("7b", ctx=15050, concurrency=1, gpu="L4", prompt_tokens=1146)
    share = option.at_once_worst / option.at_once_expected
    contexts = -(-option.in_flight * share // 1)
    cache = full.part("kv_cache").n_bytes * contexts

    assert option.headroom_bytes == pytest.approx(
        (full.headroom_bytes or 0) + full.part("kv_cache").n_bytes - cache
    )
    assert option.headroom_bytes >= 0


def test_a_place_for_each_request_has_no_expectation() -> None:
    for engine in ("llama.cpp", "transformers"):
        with pytest.raises(PlannerError, match="no room by expectation"):
            sized("8b", engine=engine, quants=["q4_k_m"], room="expected")
    with pytest.raises(PlannerError, match="no room is called"):
        sized(room="average")


# The network between servers


@pytest.mark.parametrize("wrong", ["100GB/s", "100G", "fast", "0Gb/s", "-4Gb/s", "100 Gb", "1e3Gb/s"])
def test_a_network_is_said_in_bits_a_second(wrong: str) -> None:
    with pytest.raises(PlannerError, match="network"):
        sized(inter_node=wrong)


@pytest.mark.parametrize(("text", "bits"), [("400Gb/s", 400e9), ("100 Gbit/s", 100e9), ("1.6Tb/s", 1.6e12),
                                            ("25Gbps", 25e9), ("800Gb/s/node", 100e9)])  # fmt: skip
def test_the_network_is_named_in_every_option_over_nodes(text: str, bits: float) -> None:
    found = vp.size("671b", users=8, ctx=8192, gpus=["H100"], inter_node=text)

    assert found.options
    for option in found.options:
        assert option.network_bits_per_s == pytest.approx(bits)
        assert option.network is not None
        assert "assumed" not in option.network
        assert option.link == f"NVLink or the like in a node, {option.network} between nodes"
    assert found.to_dict()["request"]["inter_node"] == text
    assert all(option.network is None for option in sized(inter_node=text).options)


def slowest(inter_node: str | None, engine: str, **layout: Any) -> Option:
    found = vp.size("671b", users=8, ctx=8192, gpus=["H100"], inter_node=inter_node, engine=engine)
    return next(
        each for each in found.options if all(getattr(each, name) == size for name, size in layout.items())
    )


@pytest.mark.parametrize(("engine", "layout"), [("sglang", {"tp": 16, "attention_dp": 1}),
                                                ("vllm", {"tp": 8, "pp": 2}), ("vllm", {"tp": 4, "dp": 4})])  # fmt: skip
def test_a_slower_network_is_slower(engine: str, layout: dict[str, int]) -> None:
    slow, fast = (slowest(speed, engine, **layout) for speed in ("10Gb/s", "400Gb/s"))

    assert slow.ttft_s.best > fast.ttft_s.best
    assert slow.tpot_s.best > fast.tpot_s.best
    assert slow.carries <= fast.carries


def test_what_a_stage_sends_to_the_next_server_by_hand() -> None:
    """Hidden states and residual of 7,168 × 2 B a token, a slice of each on 8 ranks, at the network's share of 10 Gb/s."""
    gpu = find_gpu("H100").gpu
    request = PlanRequest.of(model="671b", ctx=8192, concurrency=1, tp=8, pp=2, gpu="H100", gpu_count=16)
    steps = []
    for network in ("10Gb/s", "400Gb/s"):
        plan = estimate(request, GpuChoice(gpu, 16, "H100", Servers.of(8, network)))
        assert plan.served is not None
        found = plan.served.times(Assumptions(concurrency=1))
        rates = plan.served.rates()
        assert found is not None
        assert rates is not None
        assert rates[0].crossings == 1
        share = rates[0].crossing_bytes_per_s / (10e9 / 8 if network == "10Gb/s" else 400e9 / 8)
        steps.append(
            (found.step.link_s, 2 * 7168 * 2 / 8 / (share * (10e9 if network == "10Gb/s" else 400e9) / 8))
        )
    (slow, slow_send), (fast, fast_send) = steps

    assert slow - fast == pytest.approx(slow_send - fast_send)


def test_servers_of_four_cards_are_joined_by_the_network() -> None:
    """Tensor parallel over two servers of four was once as fast as within one of eight."""
    eight, four = (
        vp.size("671b", users=8, ctx=8192, gpus=["B200"], engine="sglang", node_gpus=node, max_gpus=8).options
        for node in (8, 4)
    )
    inside = next(option for option in eight if option.tp == 8 and option.attention_dp == 1)
    across = next(option for option in four if option.tp == 8 and option.attention_dp == 1)

    assert (inside.network, across.nodes) == (None, 2)
    assert across.network_bits_per_s == 400e9
    assert across.tpot_s.best > 1.05 * inside.tpot_s.best
    assert not across.surely


@pytest.mark.parametrize(("node", "tp", "nodes"), [(4, 4, 4), (6, 4, 4), (8, 8, 2), (16, 16, 1)])
def test_servers_of_any_size_are_filled_as_launchers_fill_them(node: int, tp: int, nodes: int) -> None:
    """Sixteen cards: whole tensor parallel groups in each server, of six slots four are used; sixteen in one are one."""
    found = vp.size("671b", users=4, ctx=4096, gpus=["H100"], node_gpus=node, max_gpus=16)
    option = next(each for each in found.options if (each.tp, each.tp * each.pp) == (tp, 16))

    assert (option.nodes, option.nodes_a_replica) == (nodes, nodes)
    assert (option.network is None) is (nodes == 1)


def test_a_plan_crosses_servers_as_the_sizing_does() -> None:
    option = slowest("100Gb/s", "sglang", tp=16, attention_dp=1)
    choice = GpuChoice(find_gpu("H100").gpu, 16, "H100", Servers.of(8, "100Gb/s"))
    request = PlanRequest.of(model="671b", ctx=8192, concurrency=8, tp=16, engine="sglang", calibration=False)
    plan = estimate(request, choice)

    assert plan.performance is not None
    assert option.tpot_s.best == pytest.approx(plan.performance.tpot_s.best)
    assert plan.layout.between == option.network == "100 Gb/s a GPU"
    assert any("100 Gb/s a GPU at 12.5 GB/s" in text for text in plan.warnings)
