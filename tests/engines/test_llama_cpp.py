"""llama.cpp against its own answers: release 0.5.0, the CUDA backend asked in no-alloc mode on pretend GPUs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vram_planner.architecture.gguf import gguf_precision
from vram_planner.architecture.parallel import Layout
from vram_planner.architecture.precision import FORMATS, plain, quantised
from vram_planner.architecture.storage import BFLOAT16
from vram_planner.engines.base import Ask, Device, Options, Workload
from vram_planner.engines.llama_cpp import LlamaCpp, settle
from vram_planner.engines.llama_cpp_layout import weights_on
from vram_planner.errors import PrecisionError, RequestError, UnsupportedArchitectureError
from vram_planner.units import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.model import Architecture

    Find = Callable[[str], Architecture]

ENGINE = LlamaCpp()
ORACLE = Path(__file__).parent.parent / "oracles" / "llamacpp.jsonl"
ROWS = [json.loads(line) for line in ORACLE.read_text(encoding="utf-8").splitlines()]


def ask_of(architecture: Architecture, *, file_type: str = "q4_k_m", **values: Any) -> Ask:
    context, concurrency = values.pop("context", 8192), values.pop("concurrency", 1)
    return Ask(
        architecture=architecture,
        precision=gguf_precision(file_type),
        workload=Workload(context=context, concurrency=concurrency, prompt_tokens=context // 2),
        layout=Layout(pp=values.pop("gpus", 1)),
        options=Options(**values),
        device=Device(name="pretend", total_bytes=24 * GIB),
    )


def test_a_whole_answer_is_the_oracle_s(oracle_architecture: Find) -> None:
    """Through `memory`, wherever a request can ask for it: with one limit of outputs, and the cache beside its layers."""
    asked = 0
    for row in ROWS:
        if (
            row["tag"] in ("cpu", "outmax")
            or row.get("kv_on_host")
            or row["type"] not in ("q4_k_m", "mxfp4_moe")
        ):
            continue
        ask = ask_of(
            oracle_architecture(row["model"]),
            file_type=row["type"],
            context=row["context"],
            concurrency=row["slots"],
            kv_dtype=f"{row['k']}/{row['v']}",
            ubatch=row["ubatch"],
            flash_attn=row["flash"],
            gpus=len(row["gpus"]),
            kv_unified=row.get("unified"),
            swa_full=row.get("swa_full"),
            ngl=row.get("ngl"),
            n_cpu_moe=row.get("n_cpu_moe"),
        )
        memory = ENGINE.memory(ask)
        found = [
            memory.bytes_of("weights"),
            memory.bytes_of("kv_cache", "recurrent_state"),
            memory.bytes_of("compute_buffer"),
        ]
        fullest = min(row["gpus"], key=lambda gpu: abs(gpu[0] - found[0]))
        asked += 1

        assert found[:2] == pytest.approx(fullest[:2], rel=1e-6)
        assert sum(found) >= max(sum(gpu) for gpu in row["gpus"]) * 0.999
    assert asked > 700


def test_a_log_of_a_real_gpu_agrees(oracle_architecture: Find) -> None:
    """
    Llama-3-8B Q4_K_M with 512 cells and no flash attention, as an older llama.cpp logged it: CUDA0 weights
    4403.49 MiB, KV 64.00 MiB, compute 258.50 MiB. Tolerance: a hundredth of a MiB.
    """
    memory = ENGINE.memory(ask_of(oracle_architecture("Llama-3.1-8B"), context=512, flash_attn=False))

    assert memory.bytes_of("weights") / MIB == pytest.approx(4403.49, abs=0.01)
    assert memory.bytes_of("kv_cache") == 64 * MIB
    assert memory.bytes_of("compute_buffer") / MIB == pytest.approx(258.50, abs=0.01)


def test_mla_keeps_576_numbers_a_token_and_layer(oracle_architecture: Find) -> None:
    """61 layers · 576 · 2 bytes = 70,272 bytes."""
    memory = ENGINE.memory(ask_of(oracle_architecture("DeepSeek-V3"), file_type="1.58bit"))

    assert memory.kv.bytes_per_token == 70_272
    assert any("MLA" in warning for warning in memory.warnings)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"n_cpu_moe": 3}, "no experts"),
        ({"kv_dtype": "fp8"}, "fp8"),
        ({"kv_dtype": "q8_0", "flash_attn": False}, "flash attention"),
        ({"gpus": 99}, "layers"),
    ],
)
def test_what_llama_cpp_refuses_is_refused(
    options: dict[str, Any], word: str, oracle_architecture: Find
) -> None:
    with pytest.raises(RequestError, match=word) as caught:
        ENGINE.memory(ask_of(oracle_architecture("Llama-3.1-8B"), **options))

    assert caught.value.hint


def test_one_latent_cannot_have_two_types(oracle_architecture: Find) -> None:
    with pytest.raises(RequestError, match="MLA"):
        ENGINE.memory(ask_of(oracle_architecture("DeepSeek-V3"), kv_dtype="f16/q8_0"))


def test_formats_of_other_engines_are_refused_with_gguf_types(oracle_architecture: Find) -> None:
    ask = ask_of(oracle_architecture("Llama-3.1-8B"))
    with pytest.raises(PrecisionError) as caught:
        ENGINE.memory(replace(ask, precision=quantised("awq", BFLOAT16, *FORMATS["awq"])))

    assert "q4_k_m" in caught.value.hint


def test_an_unquantised_checkpoint_is_a_bf16_file(oracle_architecture: Find) -> None:
    ask = ask_of(oracle_architecture("Llama-3.1-8B"), file_type="f16")
    memory = ENGINE.memory(replace(ask, precision=plain("bfloat16")))

    assert memory.settings["file_type"] == "BF16"
    assert memory.bytes_of("weights") == ENGINE.memory(ask).bytes_of("weights")


def test_ranks_are_read_as_gpus_with_a_warning(oracle_architecture: Find) -> None:
    ask = ask_of(oracle_architecture("Llama-3.1-8B"), gpus=2)
    by_ranks = ENGINE.memory(replace(ask, layout=Layout(tp=2)))

    assert by_ranks.parts == ENGINE.memory(ask).parts
    assert "-sm layer" in by_ranks.warnings[0]


def test_the_command_says_what_was_planned(oracle_architecture: Find) -> None:
    ask = ask_of(oracle_architecture("Llama-3.1-8B"), concurrency=4, kv_dtype="q8_0", ubatch=1024)
    command = ENGINE.memory(ask).launch

    assert command == (
        "llama-server -m {model_file}-Q4_K_M.gguf -c 32768 -np 4 -ngl 99 -fa on -b 2048 -ub 1024 -ctk q8_0 -ctv q8_0"
    )


@pytest.mark.parametrize("model", ["Llama-3.1-8B", "gemma-3-1b", "DeepSeek-V2-Lite", "Qwen3-30B-A3B"])
@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize("gpus", [1, 2])
def test_the_longest_context_fits_and_the_next_does_not(
    model: str, flash: bool, gpus: int, oracle_architecture: Find
) -> None:
    ask = ask_of(oracle_architecture(model), context=4096, concurrency=3, flash_attn=flash, gpus=gpus)
    capacity = ENGINE.capacity(ask, ENGINE.memory(ask))
    longest = capacity.max_context

    def needed(context: int) -> int:
        longer = replace(ask, workload=replace(ask.workload, context=context))
        return sum(part.n_bytes for part in ENGINE.memory(longer).parts)

    assert longest % 256 == 0
    assert needed(longest) <= capacity.usable_bytes < needed(longest + 256)


def test_capacity_is_what_a_gib_less_than_the_card_holds(oracle_architecture: Find) -> None:
    ask = ask_of(oracle_architecture("Llama-3.1-8B"))
    memory = ENGINE.memory(ask)
    capacity = ENGINE.capacity(ask, memory)

    assert capacity.usable_bytes == 23 * GIB
    assert capacity.kv_pool_bytes == 23 * GIB - sum(p.n_bytes for p in memory.parts if p.name != "kv_cache")
    assert capacity.max_concurrency == capacity.kv_pool_bytes / GIB
    assert capacity.num_blocks is None


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model=st.sampled_from(["Llama-3.1-8B", "gemma-3-1b", "gpt-oss-20b", "DeepSeek-V2-Lite"]),
    context=st.integers(1, 200_000),
    more=st.integers(0, 50_000),
    slots=st.integers(1, 32),
)
def test_more_tokens_slots_and_bits_never_need_a_smaller_cache(
    model: str, context: int, more: int, slots: int, oracle_architecture: Find
) -> None:
    def cache(tokens: int, requests: int, kv_dtype: str = "f16") -> int:
        ask = ask_of(oracle_architecture(model), context=tokens, concurrency=requests, kv_dtype=kv_dtype)
        return ENGINE.memory(ask).kv.n_bytes

    small = cache(context, slots)

    assert small <= cache(context + more, slots)
    assert small <= cache(context, slots + 1)
    assert cache(context, slots, "q4_0") <= cache(context, slots, "q8_0") <= small


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model=st.sampled_from(["Qwen2.5-7B", "gemma-2-9b", "Mixtral-8x7B"]),
    file_type=st.sampled_from(["q2_k", "q4_k_m", "iq4_xs", "q8_0", "f16"]),
    gpus=st.integers(1, 8),
)
def test_gpus_share_the_tensors_and_nothing_is_lost(
    model: str, file_type: str, gpus: int, oracle_architecture: Find
) -> None:
    architecture, mix = oracle_architecture(model), gguf_precision(file_type)
    ask = ask_of(architecture, file_type=file_type, gpus=gpus)
    shares = [weights_on(architecture, mix, settle(ask), device) for device in range(gpus)]
    whole = weights_on(architecture, mix, settle(ask_of(architecture, file_type=file_type)), 0)

    assert sum(shares) == whole
    assert max(shares) <= whole


def test_states_are_a_part_of_their_own(oracle_architecture: Find) -> None:
    """
    48 layers of Qwen3-Next, 36 with a state: 3 · 8192 + 32 · 128 · 128 numbers of 4 bytes for each slot,
    whatever the context.
    """
    architecture = oracle_architecture("Qwen3-Next-80B-A3B")
    short, long = (
        ENGINE.memory(ask_of(architecture, context=context, concurrency=2)) for context in (1024, 8192)
    )

    assert short.bytes_of("recurrent_state") == 2 * 36 * 4 * (3 * 8192 + 32 * 128 * 128)
    assert short.bytes_of("recurrent_state") == long.bytes_of("recurrent_state")
    assert long.bytes_of("kv_cache") == 8 * short.bytes_of("kv_cache")


def test_a_model_of_states_alone_serves_any_context(oracle_architecture: Find) -> None:
    ask = ask_of(oracle_architecture("Mamba-Codestral-7B"), concurrency=3)
    memory = ENGINE.memory(ask)
    capacity = ENGINE.capacity(ask, memory)

    assert memory.kv.n_bytes == 0
    assert capacity.max_context >= 1 << 20
    assert capacity.max_concurrency == pytest.approx(
        capacity.kv_pool_bytes / (memory.bytes_of("recurrent_state") / 3), rel=1e-6
    )


def test_layers_of_a_kind_that_we_do_not_know_are_refused(oracle_architecture: Find) -> None:
    with pytest.raises(UnsupportedArchitectureError, match="CompressedAttention"):
        ENGINE.memory(ask_of(oracle_architecture("DeepSeek-V4-Flash-8-layers")))
