"""
llama.cpp's buffers for 52 further models, against its own answers; which models it has no architecture for.

llamacpp_more.jsonl: release 0.5.0 (b11434), the CUDA backend asked in no-alloc mode on pretend GPUs, files made by its own
converter from the configurations beside the table (MiniMax-M3's and Gemma 3n's from the tensors that its loader asks for). Fifteen to seventeen questions a model: contexts, slots, unified and
quantised caches, flash attention off, micro-batches, layers on the host, two GPUs, one output.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vram_planner.architecture.gguf import gguf_precision
from vram_planner.architecture.parallel import Layout
from vram_planner.engines.base import Ask, Options, Workload
from vram_planner.engines.llama_cpp import LlamaCpp
from vram_planner.engines.llama_cpp_cache import kv_bytes, states_bytes
from vram_planner.engines.llama_cpp_compute import compute_bytes, reserved_bytes
from vram_planner.engines.llama_cpp_layout import HOST, Setting, weights_on
from vram_planner.engines.llama_cpp_parts import worst_percent
from vram_planner.engines.served import how_served
from vram_planner.errors import UnsupportedArchitectureError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.model import Architecture

    Find = Callable[[str], Architecture]

ORACLES = Path(__file__).parent.parent / "oracles"
ROWS = [json.loads(line) for line in (ORACLES / "llamacpp_more.jsonl").read_text("utf-8").splitlines()]
MODELS = sorted({row["model"] for row in ROWS})
# LongRoPE's factors turn three quarters of a head in Phi-4 mini; on the host, where they are not padded, we count all.
LONG_ROPE = {"Phi-4-mini": 128}


def setting_of(row: dict[str, Any]) -> Setting:
    return Setting(
        slots=row["slots"],
        context=row["context"],
        ubatch=row["ubatch"],
        type_k=row["k"],
        type_v=row["v"],
        flash=row["flash"],
        gpus=len(row["gpus"]),
        outputs=row["outputs"],
        unified=row.get("unified", False),
        swa_full=row.get("swa_full", False),
        gpu_layers=row.get("ngl"),
    )


def buffers(row: dict[str, Any]) -> list[tuple[int, list[int]]]:
    return [(HOST, row["host"]), *enumerate(row["gpus"])]


@pytest.mark.parametrize("model", MODELS)
def test_tensors_caches_and_states_are_exact(model: str, oracle_architecture: Find) -> None:
    """Tolerance: none, but 128 bytes of the one named above."""
    architecture = oracle_architecture(model)
    for row in (row for row in ROWS if row["model"] == model):
        setting, mix = setting_of(row), gguf_precision(row["type"])
        for device, asked in buffers(row):
            kept = kv_bytes(architecture, setting, device) + states_bytes(architecture, setting, device)
            off = asked[0] - weights_on(architecture, mix, setting, device)

            assert kept == asked[1]
            assert off in (0, -LONG_ROPE.get(model, 0))


@cache
def compute_errors(find: Find) -> dict[tuple[str, str], list[float]]:
    """By model and kind of question: how far ours are from theirs, on every GPU."""
    found = defaultdict(list)
    for row in ROWS:
        architecture, mix = find(row["model"]), gguf_precision(row["type"])
        for device, asked in enumerate(row["gpus"]):
            ours = reserved_bytes(architecture, mix, setting_of(row), device)
            found[row["model"], row["tag"]].append(ours / asked[2] - 1)
    return found


def test_compute_buffers_are_within_half_a_percent_in_95_of_100(oracle_architecture: Find) -> None:
    errors = [error for some in compute_errors(oracle_architecture).values() for error in some]

    assert len(errors) > 870
    assert sum(abs(error) <= 0.005 for error in errors) >= 0.98 * len(errors)
    assert sum(error == 0 for error in errors) >= 0.95 * len(errors)


def test_the_printed_band_covers_every_compute_buffer(oracle_architecture: Find) -> None:
    for row in ROWS:
        architecture, mix, setting = (
            oracle_architecture(row["model"]),
            gguf_precision(row["type"]),
            setting_of(row),
        )
        band = 1 + worst_percent(architecture, setting) / 100
        for device, asked in enumerate(row["gpus"]):
            assert reserved_bytes(architecture, mix, setting, device) * band >= asked[2]


NEW = (
    "Falcon-H1-0.5B",
    "Falcon-H1-7B",
    "Kimi-Linear-48B-A3B",
    "MiniMax-M1",
    "MiniMax-M3",
    "gemma-3n-E4B-text",
    "gpt2-xl",
    "wizardcoder",
)


@pytest.mark.parametrize("model", NEW)
def test_every_compute_buffer_of_the_families_added_last_is_equal(
    model: str, oracle_architecture: Find
) -> None:
    """Tolerance: none on a GPU; 0.1 % on the host, where fused projections are copied a little shorter than we say."""
    rows = [row for row in ROWS if row["model"] == model]
    for row in rows:
        architecture, mix, setting = oracle_architecture(model), gguf_precision(row["type"]), setting_of(row)
        for device, asked in buffers(row):
            ours = reserved_bytes(architecture, mix, setting, device)

            assert ours == (pytest.approx(asked[2], rel=1e-3) if device == HOST else asked[2])
    assert len(rows) >= 15


def test_what_minimax_m3_takes_grows_with_its_cache(oracle_architecture: Find) -> None:
    """The graph reserved at the start is one of 256 positions (src/llama-kv-cache-msa.cpp, get_n_pos)."""
    architecture, mix = oracle_architecture("MiniMax-M3"), gguf_precision("q4_k_m")
    short = Setting(
        slots=1, context=256, ubatch=512, type_k="f16", type_v="f16", flash=True, gpus=1, outputs=256
    )
    long = replace(short, context=32_768, outputs=512)

    assert compute_bytes(architecture, mix, short) == reserved_bytes(architecture, mix, short)
    # 57 layers copy a mask of float32 over all positions, and there were 256.
    more = 57 * (32_768 - 256) * 512 * 4
    assert compute_bytes(architecture, mix, long) > reserved_bytes(architecture, mix, long) + more * 0.9


def test_one_slots_tokens_may_take_more_than_those_of_all(oracle_architecture: Find) -> None:
    """MiniMax-M1's decays between tokens: n² numbers a head for one slot, a quarter for four."""
    architecture, mix = oracle_architecture("MiniMax-M1"), gguf_precision("q4_k_m")
    four = Setting(
        slots=4, context=8192, ubatch=512, type_k="f16", type_v="f16", flash=True, gpus=1, outputs=512
    )
    alone = replace(four, slots=1)

    assert compute_bytes(architecture, mix, four) == max(
        reserved_bytes(architecture, mix, four), reserved_bytes(architecture, mix, alone)
    )


def ask_of(architecture: Architecture) -> Ask:
    return Ask(
        architecture=architecture,
        precision=gguf_precision("q4_k_m"),
        workload=Workload(context=4096, concurrency=1, prompt_tokens=4000),
        layout=Layout(),
        options=Options(),
    )


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Zamba-7B", "zamba"),
        ("Llama-3.2-11B-Vision", "mllama"),
        ("Olmo-Hybrid-7B", "olmo_hybrid"),
        ("gpt-j-6b", "gptj"),
        ("opt-6.7b", "opt"),
    ],
)
def test_what_llama_cpp_does_not_load_is_refused_by_name(
    name: str, family: str, oracle_architecture: Find
) -> None:
    refusal = how_served("llama.cpp", "llama.cpp", oracle_architecture(name).model_type).refusal

    assert refusal is not None
    assert f"no implementation of {family}" in refusal


@pytest.mark.parametrize(
    "name",
    ["DeepSeek-V4-Flash-8-layers", "Falcon-H1"],
)
def test_what_it_loads_with_a_graph_that_we_do_not_know_is_refused_too(
    name: str, oracle_architecture: Find
) -> None:
    """Falcon-H1 here is transformers' default of that name, whose heads of 8 channels CUDA has no scan for."""
    architecture = oracle_architecture(name)

    assert how_served("llama.cpp", "llama.cpp", architecture.model_type).own
    with pytest.raises(UnsupportedArchitectureError, match="not modelled"):
        LlamaCpp().memory(ask_of(architecture))


def test_a_family_with_kimis_delta_rule_and_another_graph_is_refused(oracle_architecture: Find) -> None:
    """Kimi K3 (src/models/kimi-k3.cpp): gates of full rank, residuals chosen among blocks of layers."""
    architecture = replace(oracle_architecture("Kimi-Linear-48B-A3B"), model_type="kimi_k3")

    with pytest.raises(UnsupportedArchitectureError, match="not modelled"):
        LlamaCpp().memory(ask_of(architecture))


def test_every_family_of_both_tables_is_served(oracle_architecture: Find) -> None:
    """The list of families agrees with what the release loaded."""
    old = {json.loads(line)["model"] for line in (ORACLES / "llamacpp.jsonl").read_text("utf-8").splitlines()}

    families = {oracle_architecture(model).model_type for model in {*MODELS, *old}}
    assert all(how_served("llama.cpp", "llama.cpp", family).own for family in families)
