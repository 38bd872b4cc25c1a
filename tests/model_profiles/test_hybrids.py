"""Families with recurrent layers beyond their counts: drafts, towers, caches beside states, mixed formats."""

import json
from pathlib import Path
from typing import Any

import pytest

import vram_planner.model_profiles as package
from vram_planner.architecture.parallel import Layout, rank_weight_bytes, why_not_tp
from vram_planner.architecture.precision import Except, plain
from vram_planner.architecture.weight import Weight, count_parameters
from vram_planner.errors import ConfigError, PrecisionError
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.model_profiles.resolve import resolve

MODELS = Path(package.__file__).parent / "catalogue" / "models"


def row(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MODELS / f"{name.replace('/', '__')}.json").read_text("utf-8"))
    return found


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen3.5-0.8B",
        "Qwen/Qwen3.5-9B",
        "Qwen/Qwen3.5-27B",
        "Qwen/Qwen3.5-35B-A3B",
        "Qwen/Qwen3.5-122B-A10B",
        "Qwen/Qwen3.5-397B-A17B",
        "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8",
        "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16",
    ],
)
def test_the_layers_for_drafting_are_what_the_published_total_has_more(name: str) -> None:
    model = resolve(name).architecture

    assert row(name)["parameters_published"] == model.parameters + count_parameters(model.draft_layers)


@pytest.mark.parametrize(
    ("name", "tp", "state", "parameters"),
    [
        # Sources: vLLM 0.32's MambaSpec shapes (before padding) and the parameters of its rank 0.
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", 2, 3 * 4096 + 16 * 128 * 128, 39_862_515_328),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", 4, 3 * 2048 + 8 * 128 * 128, 19_962_868_800),
        ("ibm-granite/granite-4.0-h-tiny", 1, 3 * 3328 + 48 * 64 * 128, 6_939_037_248),
        ("nvidia/Nemotron-H-56B-Base-8K", 8, 3 * 2560 + 32 * 64 * 256, 7_041_396_800),
        ("state-spaces/mamba-2.8b-hf", 1, 3 * 5120 + 5120 * 16, 2_768_407_040),
    ],
)
def test_states_and_weights_of_a_rank_are_vllms(name: str, tp: int, state: int, parameters: int) -> None:
    model = resolve(name).architecture
    ((kept, _),) = model.states

    assert (kept.conv_channels * kept.conv_tokens + kept.state_elements) // tp == state
    assert rank_weight_bytes(model, plain("bfloat16"), Layout(tp=tp)) == (2 * parameters,)
    assert why_not_tp(model, tp) is None


def test_tensor_parallelism_divides_heads_and_groups_of_states() -> None:
    """Mamba-Codestral has 128 heads in 8 groups, which vLLM does not copy; Granite's single group it does."""
    codestral = architecture_from_config({"model_type": "mamba2"})

    assert why_not_tp(codestral, 8) is None
    assert why_not_tp(codestral, 16) == "8 groups of a recurrent state"
    assert why_not_tp(codestral, 256) == "128 heads of a recurrent state"
    assert why_not_tp(resolve("ibm-granite/granite-4.0-h-tiny").architecture, 4) is None


def test_kimi_linear_attends_in_seven_layers() -> None:
    model = resolve("moonshotai/Kimi-Linear-48B-A3B-Instruct").architecture
    ((cache, caches),) = model.caches
    ((state, states),) = model.states

    assert (cache.latent, cache.key_dim, caches, states) == (True, 576, 7, 20)
    assert (state.heads, state.state_elements, state.float32_state) == (32, 32 * 128**2, True)
    assert model.layers[-1].mixer.cache == cache


def test_kimi_k3_meets_its_published_total_but_for_2208_numbers() -> None:
    """92 routers have 896 correction biases each, which are in the total and are no parameters."""
    model = resolve("moonshotai/Kimi-K3").architecture

    assert row("moonshotai/Kimi-K3")["parameters_published"] - model.parameters == 92 * 896 + 2208
    assert [count for _, count in model.states] == [69]
    assert isinstance(model.precision, Except)
    assert "o_proj" in model.precision.names
    assert "fc1_latent_proj" not in model.precision.names


@pytest.mark.parametrize("kind", ["qwen3_5", "qwen3_5_moe"])
def test_the_tower_is_counted_where_the_class_has_one(kind: str) -> None:
    """Without a class it is what AutoModelForCausalLM builds from such a config: the language model."""
    sizes = {"model_type": f"{kind}_text", "num_hidden_layers": 4, "vocab_size": 100}
    config = {"model_type": kind, "text_config": sizes, "vision_config": {"depth": 2}}
    seeing = architecture_from_config(config | {"architectures": ["Qwen3_5ForConditionalGeneration"]})
    text = architecture_from_config(config)

    assert text.parameters == architecture_from_config(sizes).parameters
    assert seeing.parameters == text.parameters + count_parameters(seeing.towers)
    assert seeing.towers
    assert any("vision tower" in note for note in text.notes)


@pytest.mark.parametrize(
    ("name", "float32"),
    [
        ("Qwen/Qwen3.5-9B", True),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", False),
        ("nvidia/Nemotron-H-8B-Base-8K", True),
    ],
)
def test_states_are_in_float32_where_the_model_asks(name: str, float32: bool) -> None:
    ((state, _),) = resolve(name).architecture.states

    assert state.float32_state is float32


def test_falcon_h1_keeps_a_cache_and_a_state_in_each_layer() -> None:
    model = architecture_from_config({"model_type": "falcon_h1"})

    assert [count for _, count in model.caches] == [count for _, count in model.states] == [32]


def test_zamba_runs_one_block_again_with_a_cache_of_its_own() -> None:
    model = resolve("Zyphra/Zamba-7B-v1").architecture
    first, second = (layer for layer, _ in model.groups if layer.mixer.cache is not None)

    assert [count for _, count in model.caches] == [13]
    assert [count for _, count in model.states] == [76]
    assert first.parameters - second.parameters == 7424 * (3 * 7424 + 3712) + 3 * 3712 * 14_848 + 7424 + 3712
    with pytest.raises(ConfigError, match="tie_word_embeddings"):
        architecture_from_config({"model_type": "zamba", "tie_word_embeddings": False})


def test_minimax_reads_the_list_of_its_first_release() -> None:
    config = {"model_type": "minimax_m1", "num_hidden_layers": 4, "attn_type_list": [0, 0, 0, 1]}
    model = architecture_from_config(config)

    assert [layer.mixer.state is None for layer in model.layers] == [False, False, False, True]
    with pytest.raises(ConfigError, match="shared_intermediate_size"):
        architecture_from_config(config | {"shared_intermediate_size": 8})


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("nvidia/Qwen3.6-27B-NVFP4", 18_164_649_200),
        ("nvidia/Qwen3.6-35B-A3B-NVFP4", 18_683_860_336),
        ("nvidia/Qwen3.5-122B-A10B-NVFP4", 64_580_759_280),
        # Less the correction biases of 57 routers, which the count has and transformers' parameters have not.
        ("nvidia/MiniMax-M3-NVFP4", 220_479_056_768 - 57 * 128),
    ],
)
def test_what_is_in_four_bits_gives_the_published_count_of_stored_elements(name: str, packed: int) -> None:
    """Two four-bit numbers count as one element; scales and layers for drafting are not in that count."""
    model = resolve(name).architecture
    precision = model.precision
    assert isinstance(precision, Except)
    place_of: list[tuple[int | None, Weight]]
    place_of = [(index, weight) for index, layer in enumerate(model.layers) for weight in layer.weights]
    place_of += [(None, weight) for weight in model.head]
    narrow = {key for stored, tensors in precision.mixed if stored.name == "nvfp4" for key in tensors} or {
        (index, weight.name)
        for index, weight in place_of
        if weight.role in ("linear", "expert")
        and weight.name not in precision.names
        and (index, weight.name) not in precision.in_layers
    }
    halves = sum(weight.elements for index, weight in place_of if (index, weight.name) in narrow)

    assert packed == model.parameters - halves // 2


def test_a_mixed_checkpoint_may_name_matrices_as_its_files_do() -> None:
    """MiniMax-M3's files hold w1, w2, w3 under block_sparse_moe, and the halves of what transformers fuses."""
    precision = resolve("nvidia/MiniMax-M3-NVFP4").architecture.precision

    assert isinstance(precision, Except)
    (eight, four) = (tensors for _, tensors in precision.mixed)
    assert {name for index, name in eight if index == 0} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj",
    }  # fmt: skip
    assert {name for index, name in eight if index == 59} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "indexer.q_proj", "indexer.k_proj",
        "shared_experts.gate_up_proj", "shared_experts.down_proj",
    }  # fmt: skip
    assert {name for index, name in four if index == 59} == {"experts.gate", "experts.up", "experts.down"}
    assert len({index for index, _ in four}) == 57


def test_a_mixed_checkpoint_must_fit_the_model() -> None:
    config = {"model_type": "qwen3_5_text", "num_hidden_layers": 4, "vocab_size": 100}
    modules = {"model.layers.3.self_attn.q_proj": {"quant_algo": "FP8"}, "mtp.fc": {"quant_algo": "FP8"}}

    def mixed(**more: Any) -> dict[str, Any]:
        listed = {"quant_algo": "MIXED_PRECISION", "quantized_layers": modules | more}
        return config | {"quantization_config": {"quant_method": "modelopt", **listed}}

    q_proj = 2 * 16 * 256 * 4096
    stored = architecture_from_config(mixed()).weights_bytes()
    assert stored == architecture_from_config(config).weights_bytes() - q_proj + 4
    with pytest.raises(PrecisionError, match="does not have"):
        architecture_from_config(mixed(**{"model.layers.9.mlp.up_proj": {"quant_algo": "FP8"}}))
    with pytest.raises(PrecisionError, match="INT3"):
        architecture_from_config(mixed(lm_head={"quant_algo": "INT3"}))
    with pytest.raises(PrecisionError, match="lists 0 modules"):
        architecture_from_config(config | {"quantization_config": {"quant_algo": "MIXED_PRECISION"}})


def test_patterns_of_draft_layers_leave_the_models_own_alone() -> None:
    config = {"model_type": "qwen3_5_text", "num_hidden_layers": 4, "vocab_size": 100}
    quantisation = {"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["mtp.layers.0*"]}
    model = architecture_from_config(config | {"quantization_config": quantisation})

    assert not isinstance(model.precision, Except)
