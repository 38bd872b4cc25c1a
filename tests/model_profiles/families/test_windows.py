"""Which layers slide: a count of parameters cannot tell."""

from typing import Any

import pytest

from vram_planner.errors import ConfigError
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.model_profiles.resolve import resolve

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "torch_dtype": "bfloat16",
}


def window_of_each_layer(**config: Any) -> list[int | None]:
    layers = architecture_from_config(SIZES | config).layers
    return [layer.mixer.cache.window if layer.mixer.cache else None for layer in layers]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "llama", "sliding_window": 8}, [None] * 4),
        ({"model_type": "mistral"}, [4096] * 4),
        ({"model_type": "mistral", "sliding_window": None}, [None] * 4),
        ({"model_type": "mistral", "sliding_window": 8}, [8] * 4),
        ({"model_type": "qwen2", "sliding_window": 8, "max_window_layers": 2}, [None] * 4),
        (
            {"model_type": "qwen2", "sliding_window": 8, "max_window_layers": 2, "use_sliding_window": True},
            [None, None, 8, 8],
        ),
        ({"model_type": "gemma2"}, [4096, None] * 2),
        ({"model_type": "gemma3_text", "sliding_window_pattern": 3}, [4096, 4096, None, 4096]),
        ({"model_type": "cohere2", "sliding_window": 8}, [8, 8, 8, None]),
        ({"model_type": "olmo3", "sliding_window": 8}, [8, 8, 8, None]),
        ({"model_type": "phi3", "sliding_window": 8}, [8] * 4),
        ({"model_type": "exaone4", "sliding_window": 8, "sliding_window_pattern": "LLG"}, [8, 8, None, 8]),
        ({"model_type": "starcoder2"}, [None] * 4),
    ],
)
def test_defaults_of_transformers(config: dict[str, Any], expected: list[int | None]) -> None:
    assert window_of_each_layer(**config) == expected


def test_layer_types_decide_where_they_are_given() -> None:
    kinds = ["full_attention", "sliding_attention", "full_attention", "full_attention"]

    assert window_of_each_layer(model_type="gemma2", layer_types=kinds) == [None, 4096, None, None]


@pytest.mark.parametrize("kinds", [["full_attention"], ["linear_attention"] * 4, ["full_attention", 1]])
def test_layer_types_that_cannot_be(kinds: list[Any]) -> None:
    with pytest.raises(ConfigError, match="layer_types"):
        window_of_each_layer(model_type="gemma2", layer_types=kinds)


def test_gpt_oss_starts_with_a_sliding_layer_of_128() -> None:
    layers = resolve("openai/gpt-oss-20b").architecture.layers

    assert [layer.mixer.cache.window for layer in layers[:2] if layer.mixer.cache] == [128, None]


def test_a_null_window_inside_text_config_means_none() -> None:
    layers = resolve("mistralai/Mistral-Small-3.1-24B-Instruct-2503").architecture.layers

    assert {layer.mixer.cache.window for layer in layers if layer.mixer.cache} == {None}
