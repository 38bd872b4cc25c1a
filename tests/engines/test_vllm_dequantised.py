from __future__ import annotations

from typing import Any

import pytest

from vram_planner.architecture.feed_forward import DenseMLP
from vram_planner.engines.vllm_dequantised import matmul_bytes, stream_bytes
from vram_planner.engines.vllm_profile_run import Run
from vram_planner.model_profiles.resolve import resolve
from vram_planner.units import MIB

BLOCK = DenseMLP(hidden=4096, intermediate=14_336)


def run_with(**changes: Any) -> Run:
    sizes: dict[str, Any] = {
        "tokens": 8192,
        "requests": 256,
        "vocabulary": 128_256,
        "element_bytes": 2,
        "tp": 1,
        "context": 8192,
        "block": 16,
        "sampler": "sorted",
        "capability": (7, 5),
        "multiprocessors": 40,
        "v0": True,
    }
    return Run(**{**sizes, **changes})


def test_streams_of_xformers_keep_a_segment_each() -> None:
    """
    8 KV heads in 32 layers take all of torch's 32 streams; 8,192 tokens × 4 queries × 128 × 2 B = 8 MiB, of a 20 MiB segment.

    Source: xformers 0.0.26 ops/fmha/cutlass.py, CUDACachingAllocator.cpp. Tolerance: none.
    """
    architecture = resolve("meta-llama/Meta-Llama-3-8B-Instruct", offline=True).architecture

    assert stream_bytes(architecture, run_with(reserved=True)) == 32 * 20 * MIB
    assert stream_bytes(architecture, run_with(reserved=True, tp=8)) == 0
    assert stream_bytes(architecture, run_with(reserved=True, capability=(8, 0))) == 0
    assert stream_bytes(architecture, run_with()) == 0


@pytest.mark.parametrize(
    ("changes", "weights", "widths", "copies"),
    [
        # One shard of gate and up is unpacked at a time, its result beside that of both.
        ({"matrices": "bnb"}, 4096 * 14_336 * 2, 3, 3),
        # Both at once, from 256 tokens on.
        ({"matrices": "awq"}, 2 * 4096 * 14_336 * 2, 2, 3),
        # 1,024 rows in float32.
        ({"matrices": "marlin", "reduces": True}, 1024 * 2 * 14_336 * 4, 2, 3),
        ({"matrices": "bnb", "tp": 2}, 4096 * 7168 * 2, 1.5, 3),
    ],
)
def test_what_is_alive_while_gate_and_up_are_multiplied(
    changes: dict[str, Any], weights: int, widths: float, copies: int
) -> None:
    """Source: the kernels' code named in the module, counted by hand. Tolerance: none."""
    numbers = int(widths * 14_336) + copies * 4096

    assert matmul_bytes(BLOCK, copies, run_with(**changes)) == numbers * 8192 * 2 + weights


def test_float16_models_turn_bitsandbytes_results_in_bfloat16() -> None:
    """The result in bfloat16 and its copy in float16, 4·I, and the input's copy. Tolerance: none."""
    half = matmul_bytes(BLOCK, 3, run_with(matrices="bnb", half=True))

    assert half == (4 * 14_336 + 4 * 4096) * 8192 * 2


def test_other_formats_keep_nothing_beside() -> None:
    assert matmul_bytes(BLOCK, 3, run_with()) == 0
    assert matmul_bytes(BLOCK, 3, run_with(matrices="marlin")) == 0
