"""Servers, links and what is shared out; where tensor parallelism leaves a server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vram_planner as vp
from vram_planner.architecture.parallel import Layout
from vram_planner.hardware_profiles import find_gpu
from vram_planner.hardware_profiles.links import link_inside, link_of, node_size
from vram_planner.planning.layout_facts import nodes_of

ASKED: dict[str, Any] = {"ctx": 8192, "concurrency": 64, "offline": True}


@pytest.mark.parametrize(
    ("gpu", "size", "ranks", "name"),
    [
        ("H100", 8, 8, "NVLink"),
        ("MI300X", 8, 8, "Infinity Fabric"),
        ("RTX 4090", 8, 2, "PCIe 4.0 x16, through the host"),
        ("RTX 3090", 8, 2, "PCIe 4.0 x16, through the host"),
        ("RTX A6000", 8, 2, "NVLink bridge"),
        ("H100 PCIe", 8, 2, "NVLink bridge"),
        ("H100 PCIe", 8, 4, "PCIe 5.0 x16"),
        ("GB200", 72, 72, "NVLink"),
        ("GB10", 1, 1, "PCIe"),
    ],
)
def test_cards_of_a_server_and_their_link(gpu: str, size: int, ranks: int, name: str) -> None:
    card = find_gpu(gpu).gpu

    assert node_size(card) == size
    assert link_inside(card, ranks).name.startswith(name)


def test_the_network_joins_what_stands_apart() -> None:
    card = find_gpu("H100").gpu

    assert link_of(card, 8, 16).kind == "nvlink"
    assert link_of(card, 16, 16).kind == "network"
    assert link_of(find_gpu("GB10").gpu, 2, 2).kind == "network"
    assert link_of(find_gpu("GB200").gpu, 16, 16).kind == "nvlink"


@given(
    tp=st.sampled_from([1, 2, 4, 5, 8, 16, 32]),
    pp=st.integers(1, 6),
    dp=st.integers(1, 4),
    size=st.sampled_from([1, 4, 8, 72]),
)
def test_servers_hold_all_ranks_and_whole_groups(tp: int, pp: int, dp: int, size: int) -> None:
    layout = Layout(tp=tp, pp=pp, dp=dp)
    nodes = nodes_of(layout, size)

    assert nodes * size >= layout.gpus
    if tp <= size and nodes > 1:
        assert nodes * (size // tp) >= pp * dp > (nodes - 1) * (size // tp)


def test_sixteen_cards_are_two_servers_and_a_warning() -> None:
    plan = vp.plan("671b", gpu="16x H100", tp=16, **ASKED)
    layout = plan.to_dict()["layout"]

    assert (layout["nodes"], layout["per_node"], layout["inside"]) == (2, 8, "NVLink")
    assert "InfiniBand" in layout["between"]
    assert "assumed" in layout["between"]
    assert layout["valid_tp"] == (1, 2, 4, 8, 16, 32, 64)
    assert layout["most_pp"] == 61
    (warning,) = [text for text in plan.warnings if "crosses" in text]
    assert "crosses 2 servers of 8" in warning
    assert "--tp 8 --pp 2 stays inside" in warning
    assert "--tp 8 --dp 2 --ep" in warning


def test_stages_that_stay_inside_raise_no_warning() -> None:
    plan = vp.plan("671b", gpu="16x H100", tp=8, pp=2, **ASKED)

    assert plan.layout.nodes == 2
    assert not [text for text in plan.warnings if "crosses" in text]
    assert plan.layout.shards == (
        "attention heads and embedding over 8 ranks",
        "MLP and output head over 8 ranks",
        "each expert over 8 ranks",
        "layers over 2 stages",
    )
    assert plan.layout.replicates == (
        "norms and routers on all 8 ranks",
        "each byte of the cache on 8 ranks",
    )


def test_experts_over_replicas_and_groups_of_attention() -> None:
    vllm = vp.plan("671b", gpu="16x H200", tp=8, dp=2, ep=True, **ASKED).layout
    sglang = vp.plan(
        "671b", gpu="8x H200", tp=8, dp=8, dp_attention=True, ep=True, engine="sglang", **ASKED
    ).layout

    assert vllm.ep == 16
    assert "all but the experts in 2 replicas" in vllm.replicates
    assert (sglang.ep, sglang.attention_dp, sglang.nodes) == (8, 8, 1)
    assert "attention in 8 groups" in sglang.replicates
    assert "requests and their cache over 8 groups" in sglang.shards
    assert not [text for text in sglang.shards if text.startswith("attention heads")]


def test_one_card_has_no_link_and_no_card_no_server() -> None:
    one = vp.plan("7b", gpu="H100", **ASKED).layout
    none = vp.plan("7b", gpu="none", **ASKED).layout

    assert (one.nodes, one.per_node, one.inside, one.between, one.shards) == (1, 1, None, None, ())
    assert (none.nodes, none.per_node, none.inside) == (None, None, None)
    assert none.valid_tp == (1, 2, 4)
