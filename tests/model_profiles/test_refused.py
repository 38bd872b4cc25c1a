"""Every family of transformers' causal language models is read, or refused by its name with a reason."""

import json
from pathlib import Path

import pytest

from vram_planner.errors import UnsupportedArchitectureError
from vram_planner.model_profiles.families import FAMILIES
from vram_planner.model_profiles.families.refused import REFUSED
from vram_planner.model_profiles.from_config import architecture_from_config

NAMES = json.loads((Path(__file__).parent / "causal_lm_names.json").read_text("utf-8"))["names"]


def test_the_list_is_whole() -> None:
    assert len(set(NAMES)) == 189


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_read_or_refused(name: str) -> None:
    assert (name in FAMILIES) != (name in REFUSED)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refusal_names_the_family_and_the_reason(name: str) -> None:
    with pytest.raises(UnsupportedArchitectureError) as error:
        architecture_from_config({"model_type": name})

    assert repr(name) in str(error.value)
    assert REFUSED[name] in str(error.value)
    assert "token by token" in error.value.hint


def test_a_family_that_nobody_knows_is_refused_differently() -> None:
    with pytest.raises(UnsupportedArchitectureError, match="is not supported"):
        architecture_from_config({"model_type": "bertt"})
