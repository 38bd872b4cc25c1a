"""
What older builds of llama.cpp do otherwise, against the logs of real cards.

Source: XiongjieDai/GPU-Benchmarks-on-LLM-Inference, builds b2824 to b2843 of May 2024, Meta-Llama-3-8B Q4_K_M, 8,192 cells,
no flash attention: "CUDA<n> compute buffer size", summed over the cards. Printed to a hundredth of a MiB a card.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vram_planner.architecture.gguf import gguf_precision
from vram_planner.architecture.parallel import Layout
from vram_planner.engines.base import Ask, Options, Workload
from vram_planner.engines.llama_cpp import settle
from vram_planner.engines.llama_cpp_builds import SET_ROWS, before
from vram_planner.engines.llama_cpp_compute import compute_bytes
from vram_planner.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.model import Architecture

    Find = Callable[[str], Architecture]


def buffers(architecture: Architecture, version: str | None, gpus: int) -> float:
    ask = Ask(
        architecture=architecture,
        precision=gguf_precision("q4_k_m"),
        workload=Workload(context=8192, concurrency=1, prompt_tokens=1),
        layout=Layout(pp=gpus),
        options=Options(version=version, flash_attn=False),
    )
    setting = settle(ask)
    mix = gguf_precision("q4_k_m")
    return sum(compute_bytes(architecture, mix, setting, device) for device in range(gpus)) / MIB


@pytest.mark.parametrize(
    ("gpus", "logged"), [(1, 560.00), (2, 1280.03), (4, 2560.05), (6, 3840.07), (8, 5120.09)]
)
def test_logs_of_2024_are_met(gpus: int, logged: float, oracle_architecture: Find) -> None:
    """Llama 3.1 has the shapes of Llama 3. Tolerance: 0.01 MiB a card, the last digit of a log."""
    assert buffers(oracle_architecture("Llama-3.1-8B"), "b2833", gpus) == pytest.approx(
        logged, abs=0.01 * gpus
    )


def test_a_build_of_today_has_row_numbers_beside_that(oracle_architecture: Find) -> None:
    """8 B for each of 1,024 values of 512 tokens: 4 MiB; four of them in a pipeline."""
    architecture = oracle_architecture("Llama-3.1-8B")
    one, two = (buffers(architecture, None, gpus) - buffers(architecture, "b2833", gpus) for gpus in (1, 2))

    assert one == pytest.approx(4, abs=0.02)
    assert two == pytest.approx(2 * 4 * 4, abs=0.1)


@pytest.mark.parametrize(
    ("version", "older"),
    [(None, False), ("0.5.0", False), ("b11434", False), ("b2824 (4426e298)", True), ("?", False)],
)
def test_only_build_numbers_tell_the_age(version: str | None, *, older: bool) -> None:
    assert before(version, SET_ROWS) is older
