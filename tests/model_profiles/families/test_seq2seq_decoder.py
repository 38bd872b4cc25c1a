"""Decoders that transformers builds without their encoder: what they keep, and what lies idle in them."""

from typing import Any

import pytest

from vram_planner.architecture.cache import KvCache
from vram_planner.errors import ConfigError, UnsupportedArchitectureError
from vram_planner.model_profiles.from_config import architecture_from_config

SMALL = {
    "d_model": 48,
    "encoder_layers": 5,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 6,
    "vocab_size": 501,
    "decoder_ffn_dim": 100,
}
FAMILIES = (
    "bart",
    "bigbird_pegasus",
    "blenderbot",
    "blenderbot-small",
    "marian",
    "mbart",
    "mvp",
    "pegasus",
    "plbart",
    "trocr",
    "whisper",
)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_keeps_its_own_keys_and_values_alone(family: str) -> None:
    # As DynamicCache holds them after a pass of transformers 5.23.0: (batch, 6, tokens, 8) in each of 3 layers.
    model = architecture_from_config({"model_type": family, **SMALL})

    assert model.caches == ((KvCache(n_heads=6, key_dim=8, value_dim=8), 3),)
    assert any("no keys and values of an encoder's output" in note for note in model.notes)


def test_prophetnet_keeps_the_main_stream() -> None:
    config = {
        "hidden_size": 48,
        "num_decoder_layers": 3,
        "num_encoder_layers": 5,
        "num_decoder_attention_heads": 6,
    }
    model = architecture_from_config({"model_type": "prophetnet", **config})

    assert model.caches == ((KvCache(n_heads=6, key_dim=8, value_dim=8), 3),)
    assert any("1 + ngram streams" in note for note in model.notes)


def test_no_token_uses_the_cross_attention() -> None:
    model = architecture_from_config({"model_type": "bart", **SMALL})

    # Four matrices of 48 x 48 with biases and a norm's 2 x 48, in each of 3 layers.
    assert model.parameters - model.active_parameters == 3 * (4 * (48 * 48 + 48) + 2 * 48)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("bart", "BartForConditionalGeneration"),
        ("marian", "MarianMTModel"),
        ("prophetnet", "ProphetNetForConditionalGeneration"),
        ("whisper", "WhisperForConditionalGeneration"),
    ],
)
def test_a_checkpoint_with_its_encoder_is_refused(family: str, name: str) -> None:
    with pytest.raises(UnsupportedArchitectureError, match=name) as error:
        architecture_from_config({"model_type": family, "architectures": [name]})

    assert "AutoModelForCausalLM" in error.value.hint


def test_the_class_names_the_family() -> None:
    by_class = architecture_from_config({"architectures": ["MBartForCausalLM"], **SMALL})

    assert by_class.model_type == "mbart"
    assert by_class.parameters == architecture_from_config({"model_type": "mbart", **SMALL}).parameters


def test_a_head_beside_another_vocabulary_is_refused() -> None:
    config: dict[str, Any] = {"decoder_vocab_size": 601, "tie_word_embeddings": False}

    with pytest.raises(UnsupportedArchitectureError, match="601"):
        architecture_from_config({"model_type": "marian", **SMALL, **config})


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="no multiple"):
        architecture_from_config({"model_type": "bart", **SMALL, "decoder_attention_heads": 7})
