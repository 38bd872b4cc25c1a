"""How `dtype` and `quantization_config` are read. Formats are those of the named project's own checkpoints."""

from typing import Any

import pytest

from vram_planner.architecture.precision import Except
from vram_planner.errors import PrecisionError
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.model_profiles.resolve import resolve

TINY = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 1000,
}
BFLOAT16 = TINY | {"torch_dtype": "bfloat16"}
LINEAR = 4 * (4 * 256 * 256 + 3 * 256 * 512)


def bytes_with(quantisation: dict[str, Any]) -> int:
    return architecture_from_config(BFLOAT16 | {"quantization_config": quantisation}).weights_bytes()


def saved(quantisation: dict[str, Any]) -> int:
    return architecture_from_config(BFLOAT16).weights_bytes() - bytes_with(quantisation)


@pytest.mark.parametrize(
    ("quantisation", "name"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8-block"),
        ({"quant_method": "fp8", "weight_block_size": None, "activation_scheme": "static"}, "fp8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8-dynamic"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, "awq"),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1, "desc_act": False}, "gptq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bnb-int8"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8"),
        ({"quant_algo": "NVFP4"}, "nvfp4"),
    ],
)
def test_methods(quantisation: dict[str, Any], name: str) -> None:
    assert architecture_from_config(BFLOAT16 | {"quantization_config": quantisation}).precision.name == name


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        ({"num_bits": 8, "type": "float", "strategy": "channel"}, "fp8"),
        ({"num_bits": 8, "type": "int", "strategy": "channel"}, "w8a8"),
        ({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}, "w4a16"),
        ({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}, "nvfp4"),
        ({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}, "fp8-block"),
    ],
)
def test_compressed_tensors(weights: dict[str, Any], name: str) -> None:
    quantisation = {
        "quant_method": "compressed-tensors",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }

    assert architecture_from_config(BFLOAT16 | {"quantization_config": quantisation}).precision.name == name


def test_one_byte_formats_save_half_of_the_matrices() -> None:
    """One scale of 4 bytes for each of 4 x 7 matrices."""
    assert saved({"quant_method": "fp8"}) == LINEAR - 4 * 7 * 4


@pytest.mark.parametrize(
    "patterns",
    [
        ["model.layers.0.mlp.down_proj"],
        ["layers.0.mlp.down_proj"],
        ["model.layers.0.mlp.down*"],
        [r"re:.*layers\.0\.mlp\.down_proj$"],
    ],
)
def test_modules_that_are_left_out(patterns: list[str]) -> None:
    """One matrix of 256 x 512 stays in two bytes."""
    everything = bytes_with({"quant_method": "fp8"})

    left = bytes_with({"quant_method": "fp8", "modules_to_not_convert": patterns})
    assert left - everything == 256 * 512 - 4


@pytest.mark.parametrize(
    "patterns", [["self_attn"], ["model.layers.*.self_attn"], ["re:.*self_attn.*"], ["*.self_attn.*"]]
)
def test_a_block_left_out_in_every_layer(patterns: list[str]) -> None:
    quantisation = {"quant_method": "fp8", "ignore": patterns}
    precision = architecture_from_config(BFLOAT16 | {"quantization_config": quantisation}).precision

    assert isinstance(precision, Except)
    assert precision.names == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert not precision.by_layer


def test_what_is_never_quantised_may_be_named() -> None:
    patterns = ["lm_head", "model.layers.0.input_layernorm", "model.layers.3.mlp.gate", "model.embed_tokens"]

    assert bytes_with({"quant_method": "fp8", "ignore": patterns}) == bytes_with({"quant_method": "fp8"})


@pytest.mark.parametrize(
    "quantisation",
    [
        {"quant_method": "spqr"},
        {"quant_method": "gptq", "bits": 4, "group_size": 0},
        {"quant_method": "fp8", "weight_block_size": [0, 128]},
        {"quant_method": "fp8", "weight_block_size": [128]},
        {"quant_method": "bitsandbytes"},
        {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"},
        {"quant_method": "compressed-tensors", "config_groups": {}},
        {"quant_method": "fp8", "ignore": ["re:(a+"]},
        {"quant_method": "fp8", "ignore": ["*a" * 20]},
        {"quant_method": "fp8", "ignore": ["a" * 1000]},
    ],
)
def test_what_we_do_not_know_is_refused(quantisation: dict[str, Any]) -> None:
    with pytest.raises(PrecisionError) as error:
        bytes_with(quantisation)

    assert error.value.hint


@pytest.mark.parametrize("value", ["float8", 16, [], True])
def test_an_unknown_dtype_is_refused(value: object) -> None:
    with pytest.raises(PrecisionError, match="unknown dtype"):
        architecture_from_config(TINY | {"torch_dtype": value})


def test_a_config_without_dtype_says_what_was_taken() -> None:
    model = architecture_from_config(TINY)

    assert model.precision.name == "bfloat16"
    assert any("no dtype" in note for note in model.notes)


def test_torchs_own_spelling_is_read() -> None:
    assert architecture_from_config(TINY | {"dtype": "torch.float16"}).precision.name == "float16"


def test_llama_405b_fp8_leaves_its_first_and_last_layer() -> None:
    """Source: its config.json: attention and MLP of layer 0, MLP of layer 125, stay in bfloat16."""
    precision = resolve("meta-llama/Llama-3.1-405B-Instruct-FP8").architecture.precision

    assert isinstance(precision, Except)
    assert {layer for layer, _ in precision.in_layers} == {0, 125}
    assert len(precision.in_layers) == 10
