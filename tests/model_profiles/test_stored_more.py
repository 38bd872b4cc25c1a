"""
HQQ, EXL2, EXL3, torchao, AutoRound, Quark and GPTQ with rules, as their quantization_config says them.

Configs are those of the named checkpoints and documents, cut short where they list every module.
"""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.architecture.model import Architecture
from vram_planner.architecture.precision import Except, Uniform
from vram_planner.architecture.storage import BFLOAT16
from vram_planner.architecture.weight import count_parameters
from vram_planner.errors import PlannerError, PrecisionError
from vram_planner.model_profiles.config import Config
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.model_profiles.resolve import resolve
from vram_planner.model_profiles.stored_more import MORE

TINY = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 1000,
    "torch_dtype": "bfloat16",
}
SQUARE, TALL, TABLE = 256 * 256, 512 * 256, 1000 * 256
LINEAR = 4 * (4 * SQUARE + 3 * TALL)
INT4 = {"_type": "Int4WeightOnlyConfig", "_version": 2, "_data": {"group_size": 128}}
INT8 = {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {"group_size": None}}
# Source: config.json of Qwen/Qwen3.5-122B-A10B-GPTQ-Int4 and its sisters.
QWEN = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": 128,
    "desc_act": False,
    "sym": True,
    "lm_head": False,
    "dynamic": {
        "lm_head": {},
        "model.language_model.embed_tokens": {},
        "-:.*attn.*": {},
        "-:.*shared_expert.*": {},
        "-:.*mtp.*": {},
        "-:.*visual.*": {},
    },
}
# Source: bartowski/magnum-12b-v2.5-kto-exl2, branch 4_25.
MAGNUM = {
    "quant_method": "exl2",
    "version": "0.1.8",
    "bits": 4.25,
    "head_bits": 6,
    "calibration": {"rows": 115, "length": 2048, "dataset": "(default)"},
}


def tiny(quantisation: dict[str, Any]) -> Architecture:
    return architecture_from_config(TINY | {"quantization_config": quantisation})


def saved(quantisation: dict[str, Any]) -> int:
    return architecture_from_config(TINY).weights_bytes() - tiny(quantisation).weights_bytes()


@pytest.mark.parametrize(
    ("name", "gib"), [("Qwen/Qwen3.5-122B-A10B", 73.47), ("Qwen/Qwen3.5-397B-A17B", 219.56)]
)
def test_qwens_own_rules_meet_its_published_sizes(name: str, gib: float) -> None:
    """`dynamic` leaves attention and shared experts in 16 bits. Source: kaito-project/kaito @ 056b8280; a thousandth."""
    model = resolve(name, offline=True).architecture
    precision = MORE["gptq"](BFLOAT16, Config(QWEN), model.layers)
    drafts = 2 * count_parameters(model.draft_layers)

    assert (model.weights_bytes(precision) + drafts) / 2**30 == pytest.approx(gib, rel=1e-3)


def gptq(bits: int, group: int, rows: int, columns: int) -> int:
    return rows * columns * bits // 8 + columns // group * rows * (16 + bits) // 8 + columns * 4


def test_gptq_rules_change_bits_groups_or_nothing() -> None:
    """The first rule that matches from the beginning of a name holds. Source: GPTQModel's test_dynamic.py."""
    rules = {
        r"+:.*\.0\.mlp\.down_proj": {"bits": 8, "group_size": 64},
        r"-:.*\.down_proj": {},
        r".*\.up_proj.*": {"group_size": 32},
    }
    usual = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    plain = 4 * (4 * gptq(4, 128, 256, 256) + 3 * gptq(4, 128, 512, 256))
    down = 3 * TALL * 2 + gptq(8, 64, 256, 512)
    found = 4 * (4 * gptq(4, 128, 256, 256) + gptq(4, 128, 512, 256) + gptq(4, 32, 512, 256)) + down

    with_down = 4 * (gptq(4, 128, 256, 512) - gptq(4, 128, 512, 256))
    assert saved(usual) == 2 * LINEAR - plain - with_down
    assert saved(usual | {"dynamic": rules}) == 2 * LINEAR - found


def test_gptq_may_quantise_the_head() -> None:
    usual = {"quant_method": "gptq", "bits": 4, "group_size": 128}

    assert saved(usual | {"lm_head": True}) - saved(usual) == 2 * TABLE - gptq(4, 128, 1000, 256)


def test_gptq_may_name_the_modules_of_a_block() -> None:
    """Source: transformers GPTQConfig, modules_in_block_to_quantize."""
    named = {"quant_method": "gptq", "bits": 4, "modules_in_block_to_quantize": [["self_attn.o_proj"]]}

    assert saved(named) == 4 * (2 * SQUARE - gptq(4, 128, 256, 256))


def test_exl2_is_its_average_and_its_head() -> None:
    precision = tiny(MAGNUM).precision

    assert isinstance(precision, Uniform)
    assert precision.name == "exl2-4.25"
    assert precision.linear is not None
    assert saved(MAGNUM) == 2 * LINEAR - LINEAR * 425 // 800 + 2 * TABLE - (
        -(-TABLE * 6331 // 8000) + 256 * 4
    )


def test_exl3_with_its_storage_listed_takes_the_bits_of_each_module() -> None:
    """Source: exllamav3 conversion/quant_config.py: bits_per_weight of a module, none where it is not quantised."""
    listed = {
        "lm_head": {"quant_format": "exl3", "bits_per_weight": 6},
        "model.layers.0.mlp.down_proj": {"quant_format": "exl3", "bits_per_weight": 5},
        "model.layers.1.mlp.down_proj": {"stored_tensors": {}},
        "model.norm": {"stored_tensors": {}},
    }
    usual = {"quant_method": "exl3", "bits": 4.0, "head_bits": 6}
    vectors = (256 + 512) * 2

    assert saved(usual) - saved(usual | {"tensor_storage": listed}) == TALL // 8 + (
        2 * TALL - TALL // 2 - vectors
    )


@pytest.mark.parametrize("quantisation", [INT4, INT8])
def test_torchao_leaves_the_tables_unless_they_are_asked_for(quantisation: dict[str, Any]) -> None:
    usual = {"quant_method": "torchao", "quant_type": {"default": quantisation}}
    both = tiny(usual | {"include_input_output_embeddings": True}).weights_bytes()
    table = {"Int4WeightOnlyConfig": TABLE // 2 + 1000 * 2 * 4, "Int8WeightOnlyConfig": TABLE + 1000 * 5}

    assert tiny(usual).weights_bytes() - both == 2 * (2 * TABLE - table[quantisation["_type"]])


def test_torchao_by_module() -> None:
    """Exact names before patterns that must match the whole name, then `_default`. Source: torchao FqnToConfig."""
    listed = {
        "_default": INT4,
        "model.layers.0.self_attn.q_proj": INT8,
        r"re:model\.layers\..+\.q_proj": None,
        r"re:.*\.up": INT8,
    }
    quantisation = {
        "quant_method": "torchao",
        "quant_type": {
            "default": {"_type": "FqnToConfig", "_version": 1, "_data": {"fqn_to_config": listed}}
        },
    }
    precision = tiny(quantisation).precision

    assert isinstance(precision, Except)
    assert precision.in_layers == {(index, "q_proj") for index in (1, 2, 3)}
    assert [places for _, places in precision.mixed] == [{(0, "q_proj")}]
    assert precision.inner.name == "int4wo-128"


@pytest.mark.parametrize(
    ("name", "matrix"),
    [
        ("int4_weight_only", SQUARE * 4 // 2 + 256 * 8 * 4),
        ("int8_weight_only", SQUARE + 256 * 10),
        ("int8_dynamic_activation_int8_weight", SQUARE + 256 * 2),
        ("float8_weight_only", SQUARE + 256 * 4),
        ("float8_dynamic_activation_float8_weight", SQUARE + 4),
    ],
)
def test_torchaos_names_of_old(name: str, matrix: int) -> None:
    """Version 1: tensor cores' int4 is padded to 1024 inputs, int8 has an int64 zero a row."""
    precision = tiny({"quant_method": "torchao", "quant_type": name}).precision
    weight = next(w for w in tiny(MAGNUM).layers[0].weights if w.name == "q_proj")

    assert isinstance(precision, Uniform)
    assert precision.linear is not None
    assert precision.linear.nbytes(weight) == matrix


def test_hqq_by_kind_of_matrix() -> None:
    """Source: transformers docs, quantization/hqq, dynamic_config; what is not named stays in 16 bits."""
    four = {"weight_quant_params": {"nbits": 4, "group_size": 64, "axis": 1}}
    kinds = {"self_attn.q_proj": four, "mlp.down_proj": four}
    whole = {"quant_method": "hqq", "quant_config": four, "skip_modules": ["lm_head", "mlp.down_proj"]}
    q, down = 2 * SQUARE - SQUARE * 9 // 16, 2 * TALL - TALL * 9 // 16

    assert saved({"quant_method": "hqq", "quant_config": kinds}) == 4 * (q + down)
    assert saved(whole) == 4 * (4 * q + 2 * down)


def test_auto_round_changes_single_modules() -> None:
    """Source: Intel/Qwen3.5 checkpoints: extra_config with 16 bits for names, and patterns; 8 bits elsewhere."""
    usual = {
        "quant_method": "auto-round",
        "packing_format": "auto_round:auto_gptq",
        "bits": 4,
        "group_size": 128,
    }
    extra = {
        "model.layers.0.mlp.down_proj": {"bits": 16, "data_type": "float"},
        ".*self_attn.*": {"bits": 8},
        "model.visual.merger": {"bits": 16, "data_type": "float"},
    }
    down = 2 * TALL - (TALL // 2 + 4 * 256 * 20 // 8)
    wider = 16 * (SQUARE // 2 + 2 * 256 * 4 // 8)

    assert saved(usual) - saved(usual | {"extra_config": extra}) == down + wider
    assert tiny(usual | {"quant_method": "intel/auto-round"}).precision.name == "auto-round"


def test_quark_has_one_format_and_others_by_name() -> None:
    """Source: amd/Llama-3.3-70B-Instruct-MXFP4-Preview's form: fp4 in groups of 32 with an 8-bit exponent."""
    fp4 = {"weight": {"dtype": "fp4", "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0"}}
    fp8 = {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}}
    quantisation = {
        "quant_method": "quark",
        "global_quant_config": fp4,
        "layer_quant_config": {"*self_attn*": fp8},
        "exclude": ["lm_head", "model.layers.0.mlp.down_proj"],
    }
    found = 16 * (SQUARE + 4) + (3 * 4 - 1) * TALL * 17 // 32 + 2 * TALL

    assert saved(quantisation) == 2 * LINEAR - found


def test_compressed_tensors_with_a_scheme_for_each_kind() -> None:
    """A name or pattern comes before a class of modules. Source: vLLM find_matched_target."""
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
    eight = {"num_bits": 8, "type": "int", "strategy": "channel"}
    quantisation = {
        "quant_method": "compressed-tensors",
        "format": "mixed-precision",
        "ignore": ["lm_head", r"re:.*\.3\.mlp\.down_proj"],
        "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": weights, "format": "pack-quantized"},
            "group_1": {"targets": [r"re:.*self_attn.*"], "weights": eight, "format": "int-quantized"},
        },
    }
    four = TALL // 2 + TALL // 128 * 2 + 16
    found = 16 * (SQUARE + 256 * 2) + 11 * four + 2 * TALL

    assert saved(quantisation) == 2 * LINEAR - found


@pytest.mark.parametrize(
    ("scheme", "bits"), [({"num_bits": 8, "type": "float", "strategy": "channel"}, 5), (None, 9)]
)
def test_two_of_four_with_a_bit_for_each(scheme: dict[str, Any] | None, bits: int) -> None:
    """Half of the numbers and a bitmask. Source: compressed-tensors Sparse24BitMaskCompressor."""
    groups = {"group_0": {"targets": ["Linear"], "weights": scheme}} if scheme else {}
    quantisation = {
        "quant_method": "compressed-tensors",
        "config_groups": groups,
        "sparsity_config": {"format": "sparse-24-bitmask", "targets": ["Linear"]},
    }
    rows = 4 * (4 * 256 + 2 * 512 + 256) * 2 if scheme else 0

    assert saved(quantisation) == 2 * LINEAR - LINEAR * bits // 8 - rows


@pytest.mark.parametrize("algorithm", ["FP8_PB_WO", "MXFP8", "FP8_PER_CHANNEL_PER_TOKEN", "W4A16_NVFP4"])
def test_modelopts_other_algorithms(algorithm: str) -> None:
    """Source: vLLM modelopt.py, LINEAR_ALGOS."""
    assert LINEAR * 0.9 < saved({"quant_method": "modelopt", "quant_algo": algorithm}) < LINEAR * 1.5


def test_layers_that_fp8_ignores() -> None:
    usual = {"quant_method": "fp8"}

    assert saved(usual) - saved(usual | {"ignored_layers": ["o_proj"]}) == 4 * (SQUARE - 4)


@pytest.mark.parametrize(
    "quantisation",
    [
        {"quant_method": "torchao", "quant_type": "autoquant"},
        {
            "quant_method": "torchao",
            "quant_type": {"default": {"_type": "UIntXWeightOnlyConfig", "_data": {}}},
        },
        {"quant_method": "hqq", "quant_config": {}},
        {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 7, "group_size": 64}}},
        {"quant_method": "exl2", "bits": 1.0, "head_bits": 6},
        {"quant_method": "exl3", "bits": 9.0, "head_bits": 6},
        {"quant_method": "auto-round", "bits": 4, "packing_format": "mlx"},
        {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "int3"}}},
        {"quant_method": "gptq", "bits": 4, "dynamic": {r"-:(\b": {}}},
        {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask"}},
    ],
)
def test_what_we_do_not_know_is_refused(quantisation: dict[str, Any]) -> None:
    with pytest.raises(PrecisionError) as error:
        tiny(quantisation)

    assert error.value.hint


KEYS = [
    "bits", "head_bits", "quant_type", "default", "_type", "_data", "quant_config", "weight_quant_params", "nbits",
    "dynamic", "extra_config", "tensor_storage", "config_groups", "targets", "weights", "global_quant_config", "weight",
]  # fmt: skip
LEAVES = st.sampled_from(
    [None, True, 0, 4, -1, 1e400, "re:(", "Linear", "Int4WeightOnlyConfig", "*", "fp4", 10**30]
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from([*MORE, "compressed-tensors", "modelopt"]),
    st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4),
)
def test_any_quantisation_is_read_or_refused(method: str, entries: dict[str, Any]) -> None:
    with suppress(PlannerError):
        assert tiny(entries | {"quant_method": method}).weights_bytes() > 0


@pytest.mark.parametrize(
    "named",
    [
        {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"g": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}},
            "kv_cache_scheme": {"num_bits": 8, "type": "float"},
        },
    ],
)
def test_a_cache_is_quantised_only_where_the_checkpoint_names_it(named: dict[str, Any]) -> None:
    """Source: vLLM 0.32 utils/torch_utils.py, resolve_kv_cache_dtype_string."""
    silent = {key: value for key, value in named.items() if not key.startswith("kv_")}

    assert any("KV cache" in note for note in tiny(named).notes)
    assert not any("KV cache" in note for note in tiny(silent).notes)
    assert tiny(named).precision.element_bytes == 2
