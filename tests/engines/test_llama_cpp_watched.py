"""Graphs that are remembered by what they read of a setting are those that are written down anew."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from vram_planner.architecture.gguf import GgufMix
from vram_planner.engines import llama_cpp_watched
from vram_planner.engines.llama_cpp_compute import _stage, reserved_bytes
from vram_planner.engines.llama_cpp_graph import GraphBuilder
from vram_planner.engines.llama_cpp_layout import Setting
from vram_planner.engines.llama_cpp_watched import Watched, graph_peak
from vram_planner.errors import PlannerError
from vram_planner.model_profiles.resolve import resolve

if TYPE_CHECKING:
    import pytest

MODELS = [
    "8b",
    "google/gemma-3-1b-it",
    "deepseek-ai/DeepSeek-V2-Lite",
    "Qwen/Qwen3-30B-A3B",
    "state-spaces/mamba-790m-hf",
    "ai21labs/Jamba-v0.1",
    "Qwen/Qwen3.5-9B",
    "openai/gpt-oss-20b",
]
PLAIN = Setting(
    slots=1, context=4096, ubatch=512, type_k="f16", type_v="f16", flash=True, gpus=1, outputs=512
)
CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "slots": st.integers(1, 12),
    "context": st.sampled_from([256, 1024, 4096, 8192, 65536]),
    "ubatch": st.sampled_from([1, 64, 512, 1000]),
    "flash": st.booleans(),
    "unified": st.booleans(),
    "swa_full": st.booleans(),
    "row_numbers": st.booleans(),
    "outputs": st.integers(1, 512),
    "type_k": st.sampled_from(["f16", "q8_0", "bf16"]),
    "cards": st.sampled_from(["8.9", "7.5", "7.0", "older"]),
}


@settings(max_examples=40, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    changes=st.lists(st.fixed_dictionaries({}, optional=CHANGES), min_size=2, max_size=6),
)
def test_a_remembered_peak_is_that_of_a_graph_written_anew(model: str, changes: list[dict[str, Any]]) -> None:
    """All settings go to one memory, so that a reading which is not noted would show."""
    architecture, mix = resolve(model).architecture, GgufMix("q4_k_m")
    for change in changes:
        setting = replace(PLAIN, **{**change, "type_v": change.get("type_k", "f16")})
        setting = replace(setting, outputs=min(setting.outputs, setting.tokens))
        stage = _stage(architecture, mix, setting, 0)
        try:
            anew = GraphBuilder(architecture, setting, {}).peak(stage)
        except PlannerError:
            continue
        assert graph_peak(architecture, setting, stage) == anew


def test_slots_change_no_graph_without_states(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[object] = []

    def counted(architecture: Any, setting: Any, inputs: dict[str, int]) -> GraphBuilder:
        written.append(setting)
        return GraphBuilder(architecture, setting, inputs)

    monkeypatch.setattr(llama_cpp_watched, "GraphBuilder", counted)
    architecture = replace(resolve("8b").architecture)
    sizes = {
        reserved_bytes(architecture, GgufMix("q4_k_m"), replace(PLAIN, slots=slots))
        for slots in (1, 2, 4, 64)
    }

    assert len(sizes) == 1
    assert len(written) == 1


def test_a_question_with_arguments_is_noted_by_what_it_reads() -> None:
    watched: Any = Watched(PLAIN)

    assert watched.tokens == 512
    assert watched.all_on_gpus(32)
    assert watched.read == {"tokens": 512, "gpu_layers": None}
