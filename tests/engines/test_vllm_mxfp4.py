from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vram_planner.architecture.feed_forward import MixtureOfExperts
from vram_planner.architecture.parallel import Layout
from vram_planner.engines import vllm, vllm_mxfp4
from vram_planner.engines.base import Ask, Device, Options, Workload
from vram_planner.engines.versions import profile_for
from vram_planner.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.model import Architecture

ENGINE = vllm.Vllm()


def ask_of(
    architecture: Architecture,
    *,
    tp: int = 1,
    capability: tuple[int, int] = (9, 0),
    version: str | None = None,
) -> Ask:
    device = Device(name="a card", total_bytes=80 * GIB, compute_capability=capability, multiprocessors=132)
    return Ask(
        architecture=architecture,
        precision=architecture.precision,
        workload=Workload(context=8192, prompt_tokens=8191, concurrency=1),
        layout=Layout(tp=tp),
        device=device,
        options=Options(version=version),
    )


@pytest.mark.parametrize(
    ("capability", "version", "kernel"),
    [
        ((8, 0), None, "marlin"),
        ((8, 9), None, "marlin"),
        ((9, 0), None, "triton"),
        ((9, 0), "0.10.1", "marlin"),
        ((9, 0), "0.11.0", "triton"),
        ((10, 0), None, "trtllm"),
        ((12, 0), None, "marlin"),
    ],
)
def test_which_kernel_runs_the_experts(
    capability: tuple[int, int],
    version: str | None,
    kernel: str,
    oracle_architecture: Callable[[str], Architecture],
) -> None:
    """Source: the choice in vLLM 0.10.1, 0.11.0, 0.25.1 and 0.32.0, read. Tolerance: none."""
    ask = ask_of(oracle_architecture("gpt-oss-20b"), capability=capability, version=version)

    assert vllm_mxfp4.kernel_of(ask) == kernel


# Bytes of one expert's values and scales, gate and up, then down, as triton_kernels' own swizzle_data returns them
# (HopperMXValueLayout with mma_version 3, HopperMXScaleLayout with 8 warps), run on CPU tensors of [1, K / 2, N],
# with the width of a rank padded to 64 as create_weights does.
SWIZZLED = [
    ("0.14.1", 1, (8_294_400 + 529_920, 4_147_200 + 276_480)),
    ("0.14.1", 2, (4_239_360 + 276_480, 2_119_680 + 141_312)),
    ("0.19.1", 1, (8_478_720 + 529_920, 4_239_360 + 276_480)),
    ("0.19.1", 2, (4_333_568 + 276_480, 2_211_840 + 141_312)),
    ("0.25.1", 1, (8_294_400 + 529_920, 4_147_200 + 276_480)),
    ("0.25.1", 2, (4_239_360 + 276_480, 2_119_680 + 141_312)),
    ("0.25.1", 4, (2_211_840 + 138_240, 1_105_920 + 73_728)),
]


@pytest.mark.parametrize(("version", "tp", "matrices"), SWIZZLED)
def test_swizzled_experts_have_the_bytes_that_triton_kernels_gives_them(
    version: str, tp: int, matrices: tuple[int, int], oracle_architecture: Callable[[str], Architecture]
) -> None:
    """Source: triton_kernels as each release of vLLM carries it. Tolerance: none."""
    ask = ask_of(oracle_architecture("gpt-oss-20b"), tp=tp, version=version)
    profile, _ = profile_for("vllm", version)
    block = ask.architecture.layers[0].feed_forward
    assert isinstance(block, MixtureOfExperts)
    width, hidden = block.expert_intermediate // tp, block.hidden
    stored = 3 * width * hidden * 17 // 32 + (2 * width + hidden) * 2
    padded = -(-width // 64) * 64
    twice = 3 * padded * hidden // 32 if profile.get("mxfp4_scales_twice") else 0
    biases = (2 * padded + hidden) * 4
    layers, experts = len(ask.architecture.layers), block.n_experts

    assert vllm_mxfp4.held_beyond_bytes(ask, profile) == layers * experts * (
        sum(matrices) + biases + twice - stored
    )


@pytest.mark.parametrize(
    ("version", "capability", "logged", "tolerance"),
    [
        # Marlin, before 0.11; triton_kernels with the old scales beside the new; without them.
        ("0.10.1", (9, 0), 65.97, 0.002),
        ("0.11.0", (9, 0), 64.38, 0.002),
        ("0.14.1", (9, 0), 64.38, 0.002),
        ("0.25.1", (9, 0), 61.29, 0.006),
    ],
)
def test_logged_weights_of_gpt_oss_120b(
    version: str,
    capability: tuple[int, int],
    logged: float,
    tolerance: float,
    oracle_architecture: Callable[[str], Architecture],
) -> None:
    """
    Source: 'Model loading took' of public logs on H100 (vllm-project/vllm issues 23278 and 33155, llm-d's benchmark logs).

    Tolerance as in each row.
    """
    ask = ask_of(oracle_architecture("gpt-oss-120b"), capability=capability, version=version)
    memory = ENGINE.memory(ask)

    assert memory.bytes_of("weights", "buffers") / GIB == pytest.approx(logged, rel=tolerance)
