"""Which layers have experts, and what stands beside them."""

from typing import Any

import pytest

from vram_planner.architecture.feed_forward import MixtureOfExperts
from vram_planner.architecture.weight import count_parameters
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.model_profiles.resolve import resolve

QWEN = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


def sparse_layers(config: dict[str, Any]) -> list[bool]:
    layers = architecture_from_config(config).layers
    return [isinstance(layer.feed_forward, MixtureOfExperts) for layer in layers]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [True] * 4),
        ({"decoder_sparse_step": 2}, [False, True, False, True]),
        ({"mlp_only_layers": [1, 2]}, [True, False, False, True]),
    ],
)
def test_qwen_mixes_dense_and_sparse_layers(changed: dict[str, Any], expected: list[bool]) -> None:
    assert sparse_layers(QWEN | changed) == expected


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [False] + [True] * 26),
        ({"first_k_dense_replace": 3}, [False] * 3 + [True] * 24),
        ({"moe_layer_freq": 2}, [index >= 1 and index % 2 == 0 for index in range(27)]),
    ],
)
def test_deepseek_starts_dense(changed: dict[str, Any], expected: list[bool]) -> None:
    """Source: DeepseekV2DecoderLayer of the published modeling_deepseek.py, for `moe_layer_freq`."""
    config = dict(resolve("deepseek-ai/DeepSeek-V2-Lite").config)

    assert sparse_layers(config | changed) == expected


def test_more_experts_used_than_there_are() -> None:
    with pytest.raises(ConfigError, match="above the number of experts"):
        sparse_layers(QWEN | {"num_experts_per_tok": 9})


@pytest.mark.parametrize(
    ("model", "low", "high"),
    [
        # "Multi-Token Prediction module: 14B" less embedding and head, 0.93B each (README_WEIGHTS of DeepSeek-V3)
        ("deepseek-ai/DeepSeek-V3", 11.4e9, 11.7e9),
        # 358B published, 353B in the model (metadata of GLM-4.5); embedding and head are stored once more
        ("zai-org/GLM-4.5", 3.0e9, 6.0e9),
    ],
)
def test_weights_of_draft_layers(model: str, low: float, high: float) -> None:
    assert low < count_parameters(resolve(model).architecture.draft_layers) < high


def test_no_draft_layers_where_the_config_names_none() -> None:
    assert resolve("deepseek-ai/DeepSeek-V2").architecture.draft_layers == ()
