"""
The answers that `--fit` of llama.cpp gives, for 17 models on four cards.

llamacpp_fit.jsonl: common_fit_params of release 0.5.0 (b11434) on a pretend RTX 4060, 3060, 4090 and H100, one slot, f16 cache,
flash attention on, 1 GiB left free. `asked` 0 leaves the context to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vram_planner.architecture.feed_forward import MixtureOfExperts
from vram_planner.architecture.gguf import gguf_precision
from vram_planner.engines.llama_cpp_fit import (
    device_bytes,
    fewest_moe_on_host,
    longest_context,
    most_gpu_layers,
)
from vram_planner.engines.llama_cpp_layout import Setting
from vram_planner.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.model import Architecture

    Find = Callable[[str], Architecture]

TABLE = Path(__file__).parent.parent / "oracles" / "llamacpp_fit.jsonl"
ROWS = [json.loads(line) for line in TABLE.read_text("utf-8").splitlines()]


def rows(kind: str) -> list[Any]:
    chosen = [row for row in ROWS if kind_of(row) == kind]
    return [pytest.param(row, id=f"{row['model']} on {row['card']}") for row in chosen]


def kind_of(row: dict[str, Any]) -> str:
    if row["moe_on_host"]:
        return "experts"
    if row["ngl"] >= 0:
        return "layers"
    return "context" if row["asked"] == 0 else "all"


def setting(row: dict[str, Any]) -> Setting:
    return Setting(
        slots=1,
        context=row["n_ctx"],
        ubatch=512,
        type_k="f16",
        type_v="f16",
        flash=True,
        gpus=1,
        outputs=512,
    )


def room(row: dict[str, Any]) -> int:
    return int(row["card_mib"] - 1024) * MIB


@pytest.mark.parametrize("row", rows("context"))
def test_the_longest_context_is_the_one_that_fit_chooses(
    row: dict[str, Any], oracle_architecture: Find
) -> None:
    """Tolerance: none."""
    architecture, mix = oracle_architecture(row["model"]), gguf_precision(row["type"])

    assert longest_context(architecture, mix, setting(row), room(row)) == row["n_ctx"]


@pytest.mark.parametrize("row", rows("layers"))
def test_the_most_layers_are_those_that_fit_chooses(row: dict[str, Any], oracle_architecture: Find) -> None:
    """Tolerance: none."""
    architecture, mix = oracle_architecture(row["model"]), gguf_precision(row["type"])

    assert most_gpu_layers(architecture, mix, setting(row), room(row)) == row["ngl"]


@pytest.mark.parametrize("row", rows("experts"))
def test_experts_of_as_many_layers_stay_on_the_host(row: dict[str, Any], oracle_architecture: Find) -> None:
    """
    Tolerance: one layer. --fit leaves the experts of the last layers on the host, and of one more layer a part;
    --n-cpu-moe those of the first ones, whole, which Q4_K_M stores in other types (DeepSeek-V3: one layer more).
    """
    architecture, mix = oracle_architecture(row["model"]), gguf_precision(row["type"])
    first = fewest_moe_on_host(architecture, mix, setting(row), room(row))

    assert first is not None
    mixtures = sum(isinstance(layer.feed_forward, MixtureOfExperts) for layer in architecture.layers[:first])
    assert mixtures - row["moe_on_host"] in (0, 1)


@pytest.mark.parametrize("row", rows("all"))
def test_what_fit_leaves_alone_fits(row: dict[str, Any], oracle_architecture: Find) -> None:
    architecture, mix = oracle_architecture(row["model"]), gguf_precision(row["type"])

    assert device_bytes(architecture, mix, setting(row), 0) <= room(row)


def test_every_kind_of_answer_is_there() -> None:
    assert {kind_of(row) for row in ROWS} == {"context", "layers", "experts", "all"}
    assert len(ROWS) == 17
