import pytest

from vram_planner.model_profiles.resolve import resolve


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("deepseek-ai/DeepSeek-V3", 36.6e9, 37.6e9),  # "37B activated", https://arxiv.org/abs/2412.19437
        ("Qwen/Qwen3-30B-A3B", 3.3e9, 3.4e9),  # "3.3B activated", its model card
        ("Qwen/Qwen3-235B-A22B", 21.9e9, 22.3e9),  # "22B activated", its model card
        ("mistralai/Mixtral-8x7B-v0.1", 12.8e9, 13.0e9),  # "12.9B", https://arxiv.org/abs/2401.04088
        ("deepseek-ai/DeepSeek-V2", 21.0e9, 21.5e9),  # "21B activated", https://arxiv.org/abs/2405.04434
        ("openai/gpt-oss-120b", 5.1e9, 5.8e9),  # "5.1B" leaves the input embedding out
    ],
)
def test_active_parameters_as_published(name: str, low: float, high: float) -> None:
    assert low < resolve(name).architecture.active_parameters < high


def test_dense_models_use_all_their_parameters() -> None:
    model = resolve("7b").architecture

    assert model.active_parameters == model.parameters


def test_draft_layers_stand_apart() -> None:
    """Source: transformers' module, which leaves the MTP layer out."""
    model = resolve("deepseek-ai/DeepSeek-V3").architecture

    assert model.parameters == 671_026_404_352
    assert len(model.layers) == 61
    assert model.draft_layers


def test_equal_layers_are_grouped() -> None:
    model = resolve("deepseek-ai/DeepSeek-V3").architecture

    assert [count for _, count in model.groups] == [3, 58]


def test_gemma_3_slides_in_five_layers_of_six() -> None:
    model = resolve("google/gemma-3-27b-it").architecture

    assert model.parameters == 27_432_406_640
    assert {cache.window: count for cache, count in model.caches} == {1024: 52, None: 10}


def test_a_tied_head_is_counted_once() -> None:
    model = resolve("google/gemma-2-2b").architecture

    assert model.tied_head
    assert model.head == ()


def test_towers_use_memory_but_no_text_token_uses_them() -> None:
    model = resolve("google/gemma-3-27b-it").architecture
    towers = sum(weight.elements for weight in model.towers)

    assert model.parameters - model.active_parameters == towers


def test_flops_grow_with_the_context() -> None:
    model = resolve("7b").architecture

    assert model.flops_per_token(8192) - model.flops_per_token(4096) == 28 * 4 * 28 * 128 * 4096
