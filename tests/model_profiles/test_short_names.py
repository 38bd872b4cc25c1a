"""Short names as people type them, and what is suggested for one that is none."""

import pytest

from vram_planner.errors import UnknownModelError
from vram_planner.model_profiles.resolve import aliases, model_names, nearest, resolve
from vram_planner.model_profiles.short_names import canonical, meant


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("llama3.1-8b", "meta-llama/Llama-3.1-8B-Instruct"),
        ("llama 3.1 8b", "meta-llama/Llama-3.1-8B-Instruct"),
        ("Llama2-7B", "meta-llama/Llama-2-7b-hf"),
        ("llama3.3:70b", "meta-llama/Llama-3.3-70B-Instruct"),
        ("qwen-2.5-7b", "Qwen/Qwen2.5-7B"),
        ("qwen3:8b", "Qwen/Qwen3-8B"),
        ("gemma3-27b", "google/gemma-3-27b-it"),
        ("gemma3:4b", "google/gemma-3-4b-it"),
        ("phi4", "microsoft/phi-4"),
        ("gpt-oss:120b", "openai/gpt-oss-120b"),
        ("deepseek-r1:7b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"),
        ("deepseek_v3", "deepseek-ai/DeepSeek-V3"),
        ("llama4-scout", "meta-llama/Llama-4-Scout-17B-16E-Instruct"),
    ],
)
def test_separators_do_not_matter_in_a_short_name(text: str, name: str) -> None:
    profile = resolve(text, offline=True)

    assert profile.name == name
    assert profile.resolved_from == text
    assert profile.alias_of == f"{text} stands for {name}"


@pytest.mark.parametrize(
    ("text", "among"),
    [
        ("llama3", "llama-3-8b"),
        ("llama-3.1", "llama-3.1-70b"),
        ("qwen3", "Qwen/Qwen3-8B"),
        ("qwen2.5", "Qwen/Qwen2.5-7B"),
        ("gemma2", "google/gemma-2-9b"),
        ("mixtral", "mixtral-8x7b"),
        ("gpt-oss", "openai/gpt-oss-20b"),
        ("v4", "deepseek-ai/DeepSeek-V4-Pro"),
        ("scout", "llama-4-scout"),
        ("qwen3-coder", "qwen3-coder-30b"),
        ("Llama-3.1-8B-Instrct", "meta-llama/Llama-3.1-8B-Instruct"),
    ],
)
def test_a_near_miss_is_suggested(text: str, among: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        resolve(text, offline=True)

    assert among in caught.value.hint
    assert len(nearest(text)) <= 3


def test_no_short_name_is_taken_for_two_models() -> None:
    """What `meant` gives for an alias, or for a name without its organisation, is that very model."""
    for alias, name in aliases().items():
        assert meant(alias, model_names(), aliases()) in (name, None)
        assert resolve(alias).name == name


def test_a_number_stays_apart_from_a_number() -> None:
    assert canonical("Qwen-2.5-7B") == canonical("qwen2.5:7b") == "qwen2.5-7b"
    assert canonical("llama-3-8b") != canonical("llama-38b")
