"""What a count of parameters cannot show: which layers keep what, and which configs are refused."""

from typing import Any

import pytest

from vram_planner.architecture.attention import BorrowedKv
from vram_planner.architecture.parallel import Layout, rank_weight_bytes
from vram_planner.architecture.precision import Uniform
from vram_planner.architecture.storage import MXFP4, NVFP4, Tiles
from vram_planner.architecture.weight import Role
from vram_planner.errors import ConfigError, UnsupportedArchitectureError
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.model_profiles.resolve import resolve

FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def per_token(model_type: str) -> tuple[int, int]:
    """Elements of cache and of indexer that one token adds over all layers."""
    model = architecture_from_config({"model_type": model_type})
    return (
        sum(cache.elements_per_token() * count for cache, count in model.caches),
        sum(cache.elements_per_token() * count for cache, count in model.indexers),
    )


@pytest.mark.parametrize(("model_type", "layers"), [("deepseek_v32", 61), ("glm_moe_dsa", 78)])
def test_each_layer_keeps_a_latent_and_a_key(model_type: str, layers: int) -> None:
    """GLM-5.1: 78 x (576 x 2 + 128 + 4) = 100,152 bytes a token in vLLM."""
    assert per_token(model_type) == (layers * 576, layers * 128)


def test_glm_5_2_keeps_keys_in_21_of_78_layers() -> None:
    """The first three layers, and one in four of the other 75: 3 + 18."""
    model = resolve("zai-org/GLM-5.2").architecture

    assert [count for _, count in model.indexers] == [21]
    assert sum(count for _, count in model.caches) == 78


def test_gemma_4_e2b_borrows_in_20_of_35_layers() -> None:
    """15 layers keep a cache: 12 slide, 3 are full with heads of twice the width."""
    model = resolve("google/gemma-4-E2B-it").architecture
    caches = {(cache.window, cache.key_dim): count for cache, count in model.caches}

    assert caches == {(512, 256): 12, (None, 512): 3}
    assert sum(isinstance(layer.mixer, BorrowedKv) for layer in model.layers) == 20


@pytest.mark.parametrize(
    ("name", "n_bytes"),
    [
        ("google/gemma-4-26B-A4B", 51_611_872_412),
        ("nvidia/Gemma-4-31B-IT-NVFP4", 62_546_177_752),
    ],
)
def test_gemma_4_is_stored_as_published(name: str, n_bytes: int) -> None:
    """`metadata.total_size` of the bfloat16 checkpoints, with all buffers in bfloat16 too."""
    model = resolve(name).architecture
    outside = (*model.embedding, *model.final_norm, *model.head, *model.towers)
    stored = sum(weight.elements for weight in outside) + sum(
        weight.elements * count for layer, count in model.groups for weight in layer.weights
    )

    assert 2 * stored == n_bytes


def test_deepseek_v4_flash_stores_its_experts_in_four_bits() -> None:
    precision = resolve("deepseek-ai/DeepSeek-V4-Flash").architecture.precision

    assert isinstance(precision, Uniform)
    assert precision.expert is MXFP4
    assert precision.linear == Tiles("fp8-block", 128, 128)


@pytest.mark.parametrize(
    ("changed", "expert"),
    [
        ({"quantization_config": {**FP8, "moe_quant_algo": "NVFP4"}}, NVFP4),
        ({"quantization_config": {**FP8, "expert_dtype": "fp4"}}, MXFP4),
        ({"quantization_config": FP8}, Tiles("fp8-block", 128, 128)),
    ],
)
def test_experts_in_a_format_of_their_own(changed: dict[str, Any], expert: object) -> None:
    precision = architecture_from_config({"model_type": "deepseek_v4", **changed}).precision

    assert isinstance(precision, Uniform)
    assert precision.expert == expert


def test_modelopt_leaves_gemma_4_all_but_the_experts() -> None:
    """Two packed numbers count as one in the published total of 14,386,941,232."""
    model = resolve("nvidia/Gemma-4-26B-A4B-NVFP4").architecture
    experts = sum(
        weight.elements * count
        for layer, count in model.groups
        for weight in layer.weights
        if weight.role is Role.EXPERT
    )

    assert model.parameters - experts // 2 == 14_386_941_232
    packed = model.parameters - experts
    assert model.weights_bytes() == pytest.approx(2 * packed + experts * 9 / 16, rel=1e-3)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "deepseek_v4", "compress_ratios": [4] * 42 + [7]},
        {"model_type": "deepseek_v4", "o_groups": 7},
        {"model_type": "deepseek_v32", "mlp_layer_types": ["sparse"]},
        {"model_type": "glm_moe_dsa", "indexer_types": ["shared"] * 78},
        {"model_type": "glm_moe_dsa", "index_topk_pattern": "F" * 77 + "X"},
        {"model_type": "gemma4_text", "num_kv_shared_layers": 27},
        {"model_type": "gemma4_text", "layer_types": ["linear_attention"] * 30},
        {"model_type": "gemma4", "audio_config": {"subsampling_conv_channels": [128]}},
        {"model_type": "gemma3n_text", "intermediate_size": [1024, 1024]},
        {"model_type": "dots3_note_text", "moe_layer_freq": [1, 0]},
        {"model_type": "blt", "decoder_config": {"hidden_size": 512}},
    ],
)
def test_configs_that_contradict_themselves_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        architecture_from_config(config)


def test_an_unknown_vision_network_is_refused() -> None:
    with pytest.raises(UnsupportedArchitectureError, match="mobilenetv9"):
        architecture_from_config({"model_type": "gemma3n", "vision_config": {"architecture": "mobilenetv9"}})


def test_layers_are_read_from_what_transformers_5_writes() -> None:
    """`per_layer_config` names the full layers' wider heads, with zeros in front of one-digit numbers."""
    config = {"model_type": "gemma4_text", "num_hidden_layers": 12}
    own = {"05": {"head_dim": 512}, "11": {"head_dim": 512}}

    assert (
        architecture_from_config({**config, "per_layer_config": own}).layers
        == architecture_from_config(config).layers
    )


def test_glm_5_loads_as_much_as_vllm_on_each_of_eight_ranks() -> None:
    """189,666,290,688 bytes in vLLM 0.32, which keeps the 256 numbers of each indexer's norm in float32."""
    model = resolve("zai-org/GLM-5").architecture
    (on_rank,) = rank_weight_bytes(model, model.precision, Layout(tp=8))

    assert on_rank + 78 * 256 * 2 == 189_666_290_688
