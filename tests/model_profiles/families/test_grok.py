"""Grok 1 and 2, of which transformers has no class: their published counts of parameters are the oracle."""

from typing import Any

import pytest

from vram_planner.architecture.feed_forward import MixtureOfExperts
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.model_profiles.resolve import resolve

# xai-org/grok-1, as llama.cpp's log of ggml-org/llama.cpp pull request 6204 has it: "model params = 316.49 B".
GROK_1: dict[str, Any] = {
    "architectures": ["Grok1ModelForCausalLM"],
    "hidden_size": 6144,
    "intermediate_size": 32768,
    "num_hidden_layers": 64,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "vocab_size": 131072,
    "max_position_embeddings": 8192,
}


def test_grok_1_has_the_parameters_of_its_log() -> None:
    """Oracle: two digits of a thousand million, as the log rounds."""
    model = architecture_from_config(GROK_1)

    assert model.parameters == pytest.approx(316.49e9, abs=0.005e9)


def test_grok_2_has_the_parameters_that_were_counted_in_its_files() -> None:
    """Oracle: 269.5 thousand million (huggingface.co/xai-org/grok-2/discussions/24), as that rounds."""
    model = resolve("xai-org/grok-2").architecture

    assert model.parameters == pytest.approx(269.5e9, abs=0.05e9)
    assert model.model_type == "grok"


def test_the_dense_block_of_grok_2_lies_beside_its_experts() -> None:
    (feed,) = {layer.feed_forward for layer in resolve("grok-2").architecture.layers}

    assert isinstance(feed, MixtureOfExperts)
    assert feed.shared is not None
    assert (feed.n_experts, feed.top_k, feed.expert_intermediate) == (8, 2, 16384)
    assert feed.shared.intermediate == 32768


def test_git_itself_is_still_read_as_git() -> None:
    git = {"model_type": "git", "architectures": ["GitForCausalLM"]}

    assert architecture_from_config(git).model_type == "git"


def test_only_grok_2_has_a_table_of_angles_in_each_layer() -> None:
    assert resolve("grok-2").architecture.own_angles
    assert not architecture_from_config(GROK_1).own_angles
