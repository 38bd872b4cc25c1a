"""Families that transformers has no module for: against what their publishers count, and what their layers keep."""

import pytest

from vram_planner.architecture.weight import count_parameters
from vram_planner.errors import ConfigError, UnsupportedArchitectureError
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.model_profiles.resolve import resolve

# Totals of the published safetensors files, and what these hold besides parameters that are loaded.
PUBLISHED = {
    "LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct": (7_818_448_896, 0),
    "OpenGVLab/InternVL2-2B": (2_205_754_368, 0),
    "OpenGVLab/InternVL2-4B": (4_146_855_936, 0),
    "Qwen/Qwen-14B-Chat": (14_167_290_880, 0),
    "Qwen/Qwen-7B": (7_721_324_544, 0),
    "THUDM/glm-4-9b-chat": (9_399_951_392, 32),  # frequencies of the positions, a buffer
    "XiaomiMiMo/MiMo-7B-Base": (7_833_409_536, 0),
    "allenai/Molmo-7B-D-0924": (8_021_025_280, 0),
    "deepseek-ai/deepseek-moe-16b-base": (16_375_728_128, 0),
    "deepseek-ai/deepseek-vl2-tiny": (3_370_501_440, 0),
    "internlm/internlm2_5-7b-chat": (7_737_708_544, 0),
    "microsoft/Phi-3-small-8k-instruct": (7_392_274_432, 32 * 64),  # as above, in each of 32 layers
    "microsoft/Phi-3-vision-128k-instruct": (4_146_621_440, 0),
    "nvidia/Llama-3_3-Nemotron-Super-49B-v1": (49_867_145_216, 0),
    "openbmb/MiniCPM4-8B": (8_185_253_888, 0),
}
# What one layer keeps: KV heads, width of a head, and how many layers keep it.
CACHES = {
    "OrionStarAI/Orion-14B-Chat": (40, 128, 40),
    "Qwen/Qwen-14B-Chat": (40, 128, 40),
    "THUDM/chatglm3-6b": (2, 128, 28),
    "THUDM/glm-4-9b": (2, 128, 40),
    "baichuan-inc/Baichuan2-13B-Chat": (40, 128, 40),
    "deepseek-ai/Janus-1.3B": (16, 128, 24),
    "deepseek-ai/deepseek-vl2-tiny": (10, 128, 12),
    "internlm/internlm2-7b": (8, 128, 32),
    "microsoft/Phi-3-small-8k-instruct": (8, 128, 32),
    "nvidia/Llama-3_3-Nemotron-Super-49B-v1": (8, 128, 49),
    "openbmb/MiniCPM-MoE-8x2B": (36, 64, 40),
}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}
ATTENTION = {"n_heads_in_group": 2, "no_op": False}
NAS = {**TINY, "model_type": "nemotron-nas", "num_key_value_heads": None, "intermediate_size": None}


@pytest.mark.parametrize("name", PUBLISHED)
def test_count_equals_the_published_total(name: str) -> None:
    total, buffers = PUBLISHED[name]
    found = resolve(name).architecture

    assert found.parameters + count_parameters(found.draft_layers) == total - buffers


@pytest.mark.parametrize("name", CACHES)
def test_layers_keep(name: str) -> None:
    ((cache, count),) = resolve(name).architecture.caches

    assert (cache.n_heads, cache.key_dim, count) == CACHES[name]
    assert cache.value_dim == cache.key_dim
    assert cache.window is None


def test_nemotrons_blocks_differ_layer_by_layer() -> None:
    """
    One layer attends with 2 of 4 heads and has 2 · 3 · 64 / 3 = 128, rounded to 256; the other has neither.

    q and o are 64 x 64, k and v 32 x 64; three matrices of 256 x 64; two norms; table, head and last norm.
    """
    blocks = [
        {"attention": ATTENTION, "ffn": {"ffn_mult": 3, "no_op": False}},
        {"attention": {"no_op": True}, "ffn": {"no_op": True}},
    ]
    found = architecture_from_config({**NAS, "block_configs": blocks})

    assert found.parameters == (8192 + 4096) + 3 * 256 * 64 + 2 * 64 + 2 * 6400 + 64
    assert [count for _, count in found.caches] == [1]
    assert found.layers[1].weights == ()


@pytest.mark.parametrize(
    "blocks",
    [
        None,
        [],
        [1, 2],
        [{"attention": {"no_op": True}, "ffn": {"no_op": True}}] * 2,
        [{"attention": ATTENTION, "ffn": {"ffn_mult": 1e9}}] * 2,
        [{"attention": ATTENTION, "ffn": {"ffn_mult": 10**400}}] * 2,
        [{"attention": {"n_heads_in_group": 0}, "ffn": {"ffn_mult": 1}}] * 2,
    ],
)
def test_bad_blocks_are_refused(blocks: object) -> None:
    with pytest.raises(ConfigError):
        architecture_from_config({**NAS, "block_configs": blocks})


@pytest.mark.parametrize(
    "config",
    [
        {**TINY, "model_type": "chatglm"},
        {**TINY, "model_type": "phi3_v", "img_processor": {"model_name": "openai/clip-vit-base-patch32"}},
        {**TINY, "model_type": "molmo", "num_experts": 64},
        {"model_type": "internvl_chat", "llm_config": {**TINY, "model_type": "internvl_chat"}},
        {"model_type": "multi_modality", "gen_vision_config": {"cls": "VQ-8"}},
        {**NAS, "block_configs": [{"attention": {"replace_with_linear": True}}] * 2},
        {**NAS, "block_configs": [{"attention": {**ATTENTION, "window_length": 9}}] * 2},
    ],
)
def test_what_is_not_known_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(UnsupportedArchitectureError):
        architecture_from_config(config)


def test_a_draft_layer_is_counted_apart() -> None:
    """210,790,400 of MiMo: a layer, three norms, and a matrix of 4096 x 8192."""
    layer = 2 * 4096 * 4096 + 2 * 1024 * 4096 + 4096 + 2 * 1024 + 3 * 11_008 * 4096 + 2 * 4096
    found = resolve("XiaomiMiMo/MiMo-7B-Base").architecture

    assert count_parameters(found.draft_layers) == layer + 3 * 4096 + 4096 * 8192


def test_janus_autoencoder_equals_the_module_of_transformers() -> None:
    """71,883,403: JanusVQVAE of transformers 5.23.0 on the meta device, default config."""
    towers = resolve("deepseek-ai/Janus-1.3B").architecture.towers

    assert count_parameters(w for w in towers if w.name.startswith("autoencoder")) == 71_883_403


def test_sparse_minicpm_says_what_is_left_out() -> None:
    found = architecture_from_config({**TINY, "model_type": "minicpm", "sparse_config": {"topk": 64}})

    assert "compressed keys" in found.notes[0]
    assert found.tied_head
