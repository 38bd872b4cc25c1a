"""What llama-server keeps in host memory: limits by its options and its build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from vram_planner.architecture.gguf import gguf_precision
from vram_planner.architecture.parallel import Layout
from vram_planner.engines.base import Ask, Options, Workload
from vram_planner.engines.llama_cpp import LlamaCpp, settle
from vram_planner.engines.llama_cpp_host import checkpoint_bytes, checkpoints, prompt_cache_bytes
from vram_planner.errors import RequestError
from vram_planner.units import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.model import Architecture

    Find = Callable[[str], Architecture]


def asked(architecture: Architecture, context: int = 8192, slots: int = 1, **options: Any) -> Ask:
    return Ask(
        architecture=architecture,
        precision=gguf_precision("q4_k_m"),
        workload=Workload(context=context, concurrency=slots, prompt_tokens=1),
        layout=Layout(),
        options=Options(**options),
    )


@pytest.mark.parametrize(
    ("options", "cached", "count"),
    [
        ({}, 8 * GIB, 32),  # common/common.h: cache_ram_mib = 8192, n_ctx_checkpoints = 32
        ({"cache_ram": 0, "ctx_checkpoints": 0}, 0, 0),
        ({"cache_ram": 5 * MIB + 17}, 5 * MIB, 32),
        ({"version": "b11434"}, 8 * GIB, 32),
        ({"version": "b9000"}, 8 * GIB, None),
        ({"version": "b5192 (e59a5f1e)"}, 0, None),
    ],
)
def test_limits_go_by_option_and_build(options: dict[str, Any], cached: int, count: int | None) -> None:
    assert prompt_cache_bytes(Options(**options)) == cached
    assert checkpoints(Options(**options)) == count


def test_a_build_without_the_option_refuses_it() -> None:
    with pytest.raises(RequestError):
        prompt_cache_bytes(Options(version="b5192", cache_ram=GIB))


def test_a_windowed_model_keeps_its_window(oracle_architecture: Find) -> None:
    """Gemma 3 1B: 22 sliding layers, window 512, one KV head of 256: 22 · 512 · 2 · 256 · 2 B, and 12 B a cell and tensor."""
    architecture = oracle_architecture("gemma-3-1b")

    assert checkpoint_bytes(architecture, settle(asked(architecture))) == (
        22 * 512 * 2 * 256 * 2 + 12 * 512 + 22 * 2 * 12
    )
    assert checkpoint_bytes(architecture, settle(asked(architecture, swa_full=True))) == 0


def test_a_recurrent_model_keeps_the_state_of_one_slot(oracle_architecture: Find) -> None:
    """Mamba 2.8B: 64 layers of (3 · 5120 + 16 · 5120) float32 numbers, whatever the number of slots."""
    architecture = oracle_architecture("mamba-2.8b")
    one, four = (settle(asked(architecture, slots=slots)) for slots in (1, 4))

    assert checkpoint_bytes(architecture, one) == 64 * (4 * (3 + 16) * 5120 + 24)
    assert checkpoint_bytes(architecture, four) == checkpoint_bytes(architecture, one)


def test_a_plain_model_makes_none_and_the_plan_says_what_may_come(oracle_architecture: Find) -> None:
    plain = LlamaCpp().memory(asked(oracle_architecture("Llama-3.1-8B")))
    windowed = LlamaCpp().memory(
        asked(oracle_architecture("gemma-3-1b"), slots=2, cache_ram=GIB, ctx_checkpoints=4)
    )

    assert "in host memory: up to 8.00 GiB of prompt cache (--cache-ram) and all else" in plain.not_modelled
    assert plain.settings["host_checkpoint_bytes"] == 0
    assert windowed.settings["host_prompt_cache_bytes"] == GIB
    each = checkpoint_bytes(
        oracle_architecture("gemma-3-1b"), settle(asked(oracle_architecture("gemma-3-1b")))
    )
    assert windowed.settings["host_checkpoint_bytes"] == 2 * 4 * each
    assert windowed.launch.endswith("--cache-ram 1024 --ctx-checkpoints 4")
