"""
Which flash attention kernel reads a cache that is not f16, by card, against llama.cpp's own compute buffers.

llamacpp_kernels.jsonl: release 0.5.0 (b11434), the CUDA backend asked in no-alloc mode on pretend cards of compute capability
6.1, 7.5, 8.6, 8.9 and 12.0; seven models with heads of 64 to 576 numbers, alone or in groups of up to 16, in Q4_K_M; one, two
and three tokens a slot. Volta was not asked: that build has no code for it; its rule is read from the source alone.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import vram_planner as vp
from vram_planner.architecture.attention import FullAttention
from vram_planner.architecture.gguf import gguf_precision
from vram_planner.engines.llama_cpp_compute import compute_bytes, reserved_bytes
from vram_planner.engines.llama_cpp_kernels import ADA, OLDER, TURING, VOLTA, cards_of, copies_halves
from vram_planner.engines.llama_cpp_layout import HOST, Setting

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.model import Architecture

    Find = Callable[[str], Architecture]

TABLE = Path(__file__).parent.parent / "oracles" / "llamacpp_kernels.jsonl"
ROWS = [json.loads(line) for line in TABLE.read_text("utf-8").splitlines()]
MIX = gguf_precision("q4_k_m")
SHORT = Setting(
    slots=64, context=32_768, ubatch=128, type_k="q8_0", type_v="q8_0", flash=True, gpus=1, outputs=128
)


def setting_of(row: dict[str, Any]) -> Setting:
    major, minor = map(int, row["capability"].split("."))
    return Setting(
        slots=row["slots"],
        context=row["context"],
        ubatch=row["ubatch"],
        type_k=row["k"],
        type_v=row["v"],
        flash=True,
        gpus=1,
        outputs=row["outputs"],
        cards=cards_of((major, minor)),
    )


@pytest.mark.parametrize("model", sorted({row["model"] for row in ROWS}))
def test_every_compute_buffer_is_equal_on_every_kind_of_card(model: str, oracle_architecture: Find) -> None:
    """Tolerance: none."""
    architecture = oracle_architecture(model)
    for row in (row for row in ROWS if row["model"] == model):
        setting = setting_of(row)

        assert reserved_bytes(architecture, MIX, setting, 0) == row["gpus"][0][2]
        assert reserved_bytes(architecture, MIX, setting, HOST) == row["host"][2]


def test_cards_differ_in_the_table() -> None:
    """Two tokens a slot in q8_0: halves on Turing and Ampere, none on Ada, Blackwell and Pascal."""
    found = {
        row["capability"]: row["gpus"][0][2]
        for row in ROWS
        if (row["model"], row["k"], row["v"], row["slots"], row["ubatch"])
        == ("command-r", "q8_0", "q8_0", 16, 32)
    }

    assert min(found["7.5"], found["8.6"]) > 10 * max(found["6.1"], found["8.9"], found["12.0"])


@pytest.mark.parametrize(
    ("capability", "cards"),
    [
        (None, ADA),
        ((12, 0), ADA),
        ((8, 9), ADA),
        ((8, 6), TURING),
        ((7, 5), TURING),
        ((7, 2), VOLTA),
        ((6, 1), OLDER),
    ],
)
def test_kinds_of_cards(capability: tuple[int, int] | None, cards: str) -> None:
    assert cards_of(capability) == cards


def test_volta_takes_the_small_kernel_for_two_queries_of_a_key_head(oracle_architecture: Find) -> None:
    """Source: ggml_cuda_get_best_fattn_kernel, volta_mma_available: tokens × queries a key head ≤ 2, whatever the type."""
    mixer = oracle_architecture("OLMo-7B").layers[0].mixer
    assert isinstance(mixer, FullAttention)
    volta, cache, heads = replace(SHORT, cards=VOLTA), mixer.cache, mixer.n_heads

    assert [copies_halves(volta, cache, heads, 256, tokens) for tokens in (1, 2, 3)] == [False, False, True]
    assert [copies_halves(volta, cache, 2 * heads, 256, tokens) for tokens in (1, 2)] == [False, True]


def test_a_plan_counts_the_prompt_of_one_slot(oracle_architecture: Find) -> None:
    """64 slots of two tokens need no copies on Ada; a prompt of one slot copies that slot's cache, not all 64."""
    architecture = oracle_architecture("command-r")
    started, served = reserved_bytes(architecture, MIX, SHORT), compute_bytes(architecture, MIX, SHORT)
    one_layer = 2 * 32_768 * 8192 * 2  # keys and values of 64 heads of 128 numbers

    assert started < 150_000_000
    assert started + one_layer * 0.9 < served < started + one_layer * 1.1


def test_a_plan_goes_by_the_rule_of_its_card() -> None:
    asked: dict[str, Any] = {
        "ctx": 4096,
        "concurrency": 64,
        "engine": "llama.cpp",
        "ubatch": 128,
        "quant": "q4_k_m",
    }

    def buffer(gpu: str, **more: Any) -> int:
        plan = vp.plan("8b", gpu=gpu, **asked, **more)
        return next(part.n_bytes for part in plan.parts if part.name == "compute_buffer")

    assert buffer("rtx-3090", kv_dtype="q8_0") > 2 * buffer("rtx-4090", kv_dtype="q8_0")
    assert buffer("rtx-3090") == buffer("rtx-4090")
