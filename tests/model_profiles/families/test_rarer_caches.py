"""What the layers of rarer attention keep, by hand, for published models; the counts are in meta_device."""

import pytest

from vram_planner.architecture.cache import KvCache
from vram_planner.architecture.weight import count_elements
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.model_profiles.resolve import resolve


def test_scout_sees_chunks_in_three_of_four_layers() -> None:
    caches = [
        layer.mixer.cache
        for layer in resolve("meta-llama/Llama-4-Scout-17B-16E-Instruct").architecture.layers
    ]
    near = KvCache(n_heads=8, key_dim=128, value_dim=128, window=8192, chunked=True)

    assert caches[:4] == [near, near, near, KvCache(n_heads=8, key_dim=128, value_dim=128)]
    assert caches.count(near) == 36


def test_the_text_model_of_llama_4_says_that_it_has_no_tower() -> None:
    """AutoModelForCausalLM builds Llama4ForCausalLM from a config that names no other class."""
    model = architecture_from_config({"model_type": "llama4"})

    assert model.towers == ()
    assert any("vision tower" in note for note in model.notes)


def test_llama_3_2_vision_looks_at_four_tiles_in_eight_layers() -> None:
    """Four tiles of (560 / 14)² + 1 = 1,601 tokens."""
    model = resolve("meta-llama/Llama-3.2-11B-Vision-Instruct").architecture
    looking = [
        layer for layer in model.layers if layer.mixer.cache is not None and layer.mixer.cache.fixed_tokens
    ]

    assert {layer.mixer.cache.fixed_tokens for layer in looking if layer.mixer.cache} == {6404}
    assert len(looking) == 8
    assert not model.tied_head


def test_mimo_has_twice_the_kv_heads_where_it_slides() -> None:
    """Keys of 192 and values of 128; 128 tokens before the query and the query itself."""
    model = resolve("XiaomiMiMo/MiMo-V2-Flash").architecture

    assert dict(model.caches) == {
        KvCache(n_heads=4, key_dim=192, value_dim=128): 9,
        KvCache(n_heads=8, key_dim=192, value_dim=128, window=129): 39,
    }


def test_minimax_m3_keeps_an_index_in_all_but_three_layers() -> None:
    model = resolve("MiniMaxAI/MiniMax-M3").architecture

    assert model.indexers == ((KvCache(n_heads=1, key_dim=128, value_dim=0, latent=True), 57),)
    assert model.caches == ((KvCache(n_heads=4, key_dim=128, value_dim=128), 60),)


def test_longcat_keeps_two_latents_a_layer() -> None:
    model = architecture_from_config({"model_type": "longcat_flash"})

    assert model.caches == ((KvCache(n_heads=1, key_dim=576, value_dim=0, latent=True), 56),)
    # 28 layers, 256 experts, gate and up of 2048 x 6144.
    assert f"{28 * 256 * 2 * 2048 * 6144:,}" in model.notes[0]


def test_longcats_zero_experts_have_no_parameters() -> None:
    """The published total is 560 B; transformers' module has 741,053,585,408."""
    model = resolve("meituan-longcat/LongCat-Flash-Chat").architecture

    assert model.unstored == 28 * 256 * 2 * 2048 * 6144
    assert model.parameters == 741_053_585_408 - model.unstored
    assert round(model.parameters / 1e9) in (560, 561)
    assert "zero experts" in model.notes[0]


def test_step_3_7_adds_up_to_its_published_total() -> None:
    """Main model, three drafts with heads of their own, and 42 routers' correction biases of 288."""
    model = resolve("stepfun-ai/Step-3.7-Flash").architecture

    assert model.parameters + count_elements(model.draft_layers) + 42 * 288 == 201_365_316_160
    assert dict(model.caches) == {
        KvCache(n_heads=8, key_dim=128, value_dim=128): 12,
        KvCache(n_heads=8, key_dim=128, value_dim=128, window=512): 33,
    }


def test_inkling_keeps_four_convolutions_a_layer() -> None:
    """Keys and values of 16 x 128 (sliding) or 8 x 128 (full), and twice the width of 6144; three tokens each."""
    states = architecture_from_config({"model_type": "inkling_text"}).states

    assert {(state.conv_channels, state.conv_tokens): count for state, count in states} == {
        (2 * 2048 + 2 * 6144, 3): 55,
        (2 * 1024 + 2 * 6144, 3): 11,
    }


@pytest.mark.parametrize(
    "changed",
    [
        {"model_type": "helium", "head_dim": 64},
        {"model_type": "hunyuan_v1_moe", "num_experts": 4, "moe_topk": 5},
        {"model_type": "hunyuan_v1_moe", "num_experts": 4, "moe_topk": [1, 2]},
        {"model_type": "laguna", "num_attention_heads_per_layer": [48]},
        {"model_type": "laguna", "num_attention_heads_per_layer": [12] * 40},
        {"model_type": "dbrx", "ffn_config": {"moe_num_experts": 2, "moe_top_k": 3}},
        {"model_type": "step3p7", "text_config": {"moe_layers_enum": "3,four"}},
        {"model_type": "step3p7", "text_config": {"layer_types": ["full_attention"] * 46}},
        {"model_type": "persimmon", "num_attention_heads": 60},
        {"model_type": "inkling_text", "swa_num_key_value_heads": 48},
        {"model_type": "llama4_text", "layer_types": ["sliding_attention"] * 48},
    ],
)
def test_configs_that_contradict_themselves_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        architecture_from_config(changed)
