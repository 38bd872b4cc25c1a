import math

import pytest

from vram_planner.errors import ConfigError
from vram_planner.model_profiles.config import Config, show


@pytest.mark.parametrize(
    "value",
    [0, -1, 10**12, 10**5000, 1.5, 4096.0, "4096", True, [], {}, math.nan, math.inf],
    ids=lambda value: str(value)[:9] if not isinstance(value, int) else hex(value)[:9],
)
def test_a_count_of_layers_that_makes_no_sense_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="num_hidden_layers") as error:
        Config({"num_hidden_layers": value}).integer("num_hidden_layers")

    assert "num_hidden_layers" in error.value.hint


def test_missing_names_the_key_and_its_aliases() -> None:
    with pytest.raises(ConfigError, match=r"no text_config\.hidden_size or n_embd"):
        Config({"text_config": {}}).sub("text_config").integer("hidden_size", "n_embd")


def test_null_is_as_good_as_absent() -> None:
    assert Config({"head_dim": None}).integer("head_dim", default=64) == 64
    assert Config({"head_dim": None}).optional_integer("head_dim") is None


def test_the_first_key_that_is_there_wins() -> None:
    assert Config({"n_embd": 2, "hidden_size": 1}).integer("hidden_size", "n_embd") == 1
    assert Config({"n_embd": 2}).integer("hidden_size", "n_embd") == 2


@pytest.mark.parametrize("value", [0, 1, "true", []])
def test_a_flag_is_true_or_false(value: object) -> None:
    with pytest.raises(ConfigError, match="true or false"):
        Config({"tie_word_embeddings": value}).flag("tie_word_embeddings")


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", True, None])
def test_a_number_is_finite(value: object) -> None:
    with pytest.raises(ConfigError):
        Config({"x": value}).number("x")


@pytest.mark.parametrize("value", [1, "abc", [1, "2"], [True], [-1], [None]])
def test_a_list_of_whole_numbers(value: object) -> None:
    with pytest.raises(ConfigError, match="x is"):
        Config({"x": value}).integers("x")


def test_sub_objects_are_objects() -> None:
    with pytest.raises(ConfigError, match="text_config is a list of 0, which is not an object"):
        Config({"text_config": []}).sub("text_config")


def test_defaults_give_way_to_what_is_there() -> None:
    config = Config({"a": 1, "b": None}).with_defaults({"a": 2, "b": 3})

    assert (config.integer("a"), config.integer("b")) == (1, 3)


def test_values_are_shown_briefly() -> None:
    assert show(10**5000) == "a number of 16,610 bits"
    assert len(show("x" * 10**6)) < 100
    assert show([[]] * 3) == "a list of 3"
