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


@pytest.mark.parametrize("pattern", ["re:" + "(a|b)" * 7 + "c+", "re:" + "(a|b|c|d|e|f|g|h|i)" * 9])
def test_too_many_choices_are_refused(pattern: str) -> None:
    with pytest.raises(PrecisionError):
        left_out(pattern)
