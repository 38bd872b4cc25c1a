"""What the layers of old and odd decoders keep: a count of parameters cannot show it."""

import pytest

from vram_planner.errors import ConfigError, UnsupportedArchitectureError
from vram_planner.model_profiles.from_config import architecture_from_config


def test_starcoder_keeps_one_head_and_its_older_names_are_read() -> None:
    """WizardCoder 15B: 40 layers, one KV head of 6144 / 48 = 128."""
    found = architecture_from_config(
        {"model_type": "gpt_bigcode", "n_embd": 6144, "n_head": 48, "n_layer": 40}
    )

    ((cache, count),) = found.caches
    assert (cache.n_heads, cache.key_dim, cache.value_dim, count) == (1, 128, 128, 40)


def test_gpt_neo_keeps_every_token_though_half_its_layers_look_back_little() -> None:
    """As DynamicCache does: the window of 256 is a mask."""
    ((cache, count),) = architecture_from_config({"model_type": "gpt_neo"}).caches

    assert (cache.window, count) == (None, 24)


def test_gpt_1_keeps_nothing() -> None:
    found = architecture_from_config({"model_type": "openai-gpt"})

    assert found.caches == ()
    assert "anew" in found.notes[0]


def test_moshi_slides_in_every_layer() -> None:
    ((cache, count),) = architecture_from_config({"model_type": "moshi"}).caches

    assert (cache.window, count) == (3000, 32)


def test_beam_is_full_in_each_sixth_layer_and_in_the_last() -> None:
    """52 layers: 6, 12 … 48 are eight, and the last."""
    windows = [layer.mixer.cache for layer in architecture_from_config({"model_type": "beam"}).layers]

    assert sum(cache is not None and cache.window is None for cache in windows) == 9
    assert windows[-1] is not None
    assert windows[-1].window is None


def test_a_reasoning_model_keeps_a_cache_for_each_run_of_a_layer() -> None:
    """16 layers a stack, 2 high cycles of 3 low ones and 1 high one: 16 · 2 · 4 = 128."""
    ((cache, count),) = architecture_from_config({"model_type": "hrm_text"}).caches

    assert (cache.n_heads, cache.key_dim, count) == (12, 128, 128)


def test_a_reasoning_model_of_a_million_runs_is_refused() -> None:
    with pytest.raises(ConfigError, match="runs of a layer"):
        architecture_from_config({"model_type": "hrm_text", "H_cycles": 1000, "L_cycles": 999})


@pytest.mark.parametrize("changed", [{"attn_type": "multiquery_attention"}, {"qk_ln": True}])
def test_an_mpt_that_transformers_cannot_build_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(UnsupportedArchitectureError, match="attn_config"):
        architecture_from_config({"model_type": "mpt", "attn_config": changed})
