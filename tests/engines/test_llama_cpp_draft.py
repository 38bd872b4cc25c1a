"""
llama-server's draft model.

llamacpp_draft.jsonl: release 0.5.0 (b11434), its CUDA backend on one and two pretend GPUs, asked as test_llama_cpp_split.py
says for contexts as common_base_params_to_speculative makes them: f16, as many cells as the served model, one output a slot.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vram_planner.architecture.gguf import gguf_precision
from vram_planner.architecture.parallel import Layout
from vram_planner.engines.base import Ask, Device, Options, Workload
from vram_planner.engines.llama_cpp import LlamaCpp, mix_for, settle
from vram_planner.engines.llama_cpp_draft import Draft, draft_parts, find_draft
from vram_planner.engines.llama_cpp_fit import device_bytes
from vram_planner.errors import RequestError
from vram_planner.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.model import Architecture

    Find = Callable[[str], Architecture]

TABLE = Path(__file__).parent.parent / "oracles" / "llamacpp_draft.jsonl"
ROWS = [json.loads(line) for line in TABLE.read_text("utf-8").splitlines()]
MIX = gguf_precision("q4_k_m")


def asked(served: Architecture, draft: Architecture | None, gpus: int = 1, **options: Any) -> Ask:
    slots, context = options.pop("slots", 1), options.pop("context", 8192)
    return Ask(
        architecture=served,
        precision=MIX,
        workload=Workload(context=context, concurrency=slots, prompt_tokens=1),
        layout=Layout(pp=gpus),
        options=Options(speculative=options.pop("speculative", "draft"), **options),
        draft=draft,
        device=Device(name="any", total_bytes=24 * GIB),
    )


def found(ask: Ask) -> Draft:
    draft = find_draft(ask, settle(ask), mix_for)
    assert draft is not None
    return draft


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['model']}-{row['slots']}-{len(row['gpus'])}")
def test_its_buffers_are_those_of_a_context_of_its_own(
    row: dict[str, Any], oracle_architecture: Find
) -> None:
    """Whatever the served model's cache is made of. Tolerance: none."""
    options = {"flash_attn": row["flash"], "slots": row["slots"], "kv_dtype": "q8_0/f16", "ngl": 30}
    draft = found(
        asked(
            oracle_architecture("Llama-3.1-8B"),
            oracle_architecture(row["model"]),
            len(row["gpus"]),
            **options,
        )
    )

    for device, buffers in enumerate(row["gpus"]):
        assert [part.n_bytes for part in draft_parts(draft, device)] == buffers
        assert draft.held(device) == sum(buffers)


def test_it_stands_in_the_plan_apart(oracle_architecture: Find) -> None:
    served, draft = oracle_architecture("Qwen3-32B"), oracle_architecture("Qwen3-0.6B")
    alone = LlamaCpp().memory(asked(served, None, speculative=None))
    both = LlamaCpp().memory(asked(served, draft, speculative_tokens=5))
    names = [part.name for part in both.parts]

    assert names[-4:] == ["draft_model", "draft_kv_cache", "draft_compute_buffer", "runtime"]
    assert both.bytes_of(*(part.name for part in alone.parts)) == alone.bytes_of(
        *(part.name for part in alone.parts)
    )
    assert both.launch.endswith("--spec-type draft-simple -md DRAFT-Q4_K_M.gguf --spec-draft-n-max 5")


def test_the_longest_context_leaves_room_for_both(oracle_architecture: Find) -> None:
    served, draft = oracle_architecture("Qwen3-8B"), oracle_architecture("Qwen3-0.6B")
    engine, ask = LlamaCpp(), asked(served, draft)
    longest = engine.capacity(ask, engine.memory(ask)).max_context
    room = engine.usable_bytes(ask) - engine.memory(ask).bytes_of("runtime")

    def held(context: int) -> int:
        longer = asked(served, draft, context=context)
        return device_bytes(served, MIX, settle(longer), 0) + found(longer).held(0)

    assert held(longest) <= room < held(longest + 256)


@pytest.mark.parametrize("options", [{"speculative": "mtp"}, {"speculative": None, "speculative_tokens": 3}])
def test_other_drafting_is_refused(options: dict[str, Any], oracle_architecture: Find) -> None:
    with pytest.raises(RequestError) as caught:
        LlamaCpp().memory(asked(oracle_architecture("Qwen3-8B"), None, **options))
    assert caught.value.hint


def test_an_unquantised_draft_is_a_file_of_the_served_type(oracle_architecture: Find) -> None:
    ask = asked(oracle_architecture("Qwen3-8B"), oracle_architecture("Qwen3-0.6B"))

    assert found(ask).mix.title == "Q4_K_M"
