"""What `--fit` of llama.cpp chooses: layers and context."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vram_planner.architecture.gguf import gguf_precision
from vram_planner.architecture.parallel import Layout
from vram_planner.engines.base import Ask, Device, Options, Workload
from vram_planner.engines.llama_cpp import LlamaCpp
from vram_planner.engines.llama_cpp_fit import (
    device_bytes,
    fewest_moe_on_host,
    longest_context,
    most_gpu_layers,
)
from vram_planner.engines.llama_cpp_layout import Setting
from vram_planner.units import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.model import Architecture

    Find = Callable[[str], Architecture]

# A card of 24,564 MiB, of which --fit leaves 1 GiB free.
ROOM = (24_564 - 1024) * MIB


def setting(context: int = 8192) -> Setting:
    return Setting(
        slots=1, context=context, ubatch=512, type_k="f16", type_v="f16", flash=True, gpus=1, outputs=512
    )


@pytest.mark.parametrize(
    ("model", "file_type", "layers"),
    [("Llama-3.1-70B", "q4_k_m", 44), ("Qwen3-32B", "q8_0", 43), ("gemma-3-27b-text", "f16", 26)],
)
def test_the_most_layers_are_those_that_fit_chooses(
    model: str, file_type: str, layers: int, oracle_architecture: Find
) -> None:
    """Source: common_fit_params of release 0.5.0 on a pretend RTX 4090, 8192 cells. Tolerance: none."""
    mix = gguf_precision(file_type)

    assert most_gpu_layers(oracle_architecture(model), mix, setting(), ROOM) == layers


def test_the_longest_context_is_the_one_that_fit_chooses(oracle_architecture: Find) -> None:
    """Llama-3.1-8B in F16 on the same card: 71,680 cells. Tolerance: none."""
    architecture = oracle_architecture("Llama-3.1-8B")

    assert longest_context(architecture, gguf_precision("f16"), setting(), ROOM) == 71_680


def test_experts_go_to_the_host_before_layers_do(oracle_architecture: Find) -> None:
    architecture, mix = oracle_architecture("Qwen3-30B-A3B"), gguf_precision("q8_0")
    fewest = fewest_moe_on_host(architecture, mix, setting(), ROOM)

    assert fewest is not None
    assert 0 < fewest < 48
    assert fewest_moe_on_host(oracle_architecture("Llama-3.1-8B"), mix, setting(), ROOM) is None


@pytest.mark.parametrize(
    ("model", "file_type", "words"),
    [("Llama-3.1-70B", "q4_k_m", "--ngl 43 fits"), ("Qwen3-30B-A3B", "q8_0", "--n-cpu-moe 15 fits")],
)
def test_a_plan_that_does_not_fit_says_what_would(
    model: str, file_type: str, words: str, oracle_architecture: Find
) -> None:
    """One layer less than --fit would take: we leave room for a CUDA context of 350 MiB too."""
    ask = Ask(
        architecture=oracle_architecture(model),
        precision=gguf_precision(file_type),
        workload=Workload(context=8192, concurrency=1, prompt_tokens=4096),
        layout=Layout(),
        options=Options(),
        device=Device(name="pretend", total_bytes=24_564 * MIB),
    )

    assert any(warning.startswith(words) for warning in LlamaCpp().memory(ask).find_hints())


def test_more_layers_on_the_gpu_need_more_of_it(oracle_architecture: Find) -> None:
    architecture, mix = oracle_architecture("Llama-3.1-8B"), gguf_precision("q8_0")
    sizes = []
    for layers in (1, 8, 16, 24, 33):
        some = Setting(
            slots=1,
            context=8192,
            ubatch=512,
            type_k="f16",
            type_v="f16",
            flash=True,
            gpus=1,
            outputs=512,
            gpu_layers=layers,
        )
        sizes.append(device_bytes(architecture, mix, some, 0))

    assert sizes == sorted(sizes)
    assert most_gpu_layers(architecture, mix, setting(), GIB) >= 1
