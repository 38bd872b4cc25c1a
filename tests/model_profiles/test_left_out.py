"""Patterns of modules that a quantised checkpoint leaves alone, where they offer a choice."""

import pytest

from vram_planner.architecture.precision import Except
from vram_planner.errors import PrecisionError
from vram_planner.model_profiles.from_config import architecture_from_config

TINY = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 1000,
    "torch_dtype": "bfloat16",
}


def left_out(*patterns: str) -> frozenset[str]:
    quantisation = {"quant_method": "fp8", "ignore": list(patterns)}
    precision = architecture_from_config(TINY | {"quantization_config": quantisation}).precision
    assert isinstance(precision, Except)
    return precision.names


def test_a_choice_stands_for_each_of_its_names() -> None:
    """As Kimi K2.5 writes it."""
    assert left_out(r"re:.*mlp\.(gate|up|gate_up|down)_proj.*") == {"gate_proj", "up_proj", "down_proj"}
    assert left_out(r"re:.*self_attn\.(?:q|k)_proj$") == {"q_proj", "k_proj"}
    assert left_out(r"re:.*(mlp|self_attn)\.(up|o)_proj") == {"up_proj", "o_proj"}


@pytest.mark.parametrize(
    "pattern", [r"re:.*layers\.[0-3]\.mlp\.down_proj$", r"re:model\.layers\.\d+\.mlp\.(?!gate|up).*"]
)
def test_classes_and_looks_ahead_are_read(pattern: str) -> None:
    assert left_out(pattern) == {"down_proj"}


@pytest.mark.parametrize(
    "pattern", ["re:" + "(" * 20 + "a" + ")" * 20, "re:(a", "re:a{1,99}", "re:*a", r"re:\ba"]
)
def test_what_is_no_pattern_of_ours_is_refused(pattern: str) -> None:
    with pytest.raises(PrecisionError):
        left_out(pattern)
