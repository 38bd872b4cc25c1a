"""Every row of the catalogue against transformers' own module on the meta device (transformers 5.23), exactly."""

import json
from pathlib import Path

import pytest

import vram_planner.model_profiles as package
from vram_planner.model_profiles.resolve import aliases, model_names, resolve
from vram_planner.model_profiles.schema import CatalogueRow

CATALOGUE = Path(package.__file__).parent / "catalogue"
ROWS = {
    path.stem: json.loads(path.read_text("utf-8")) for path in sorted((CATALOGUE / "models").glob("*.json"))
}
# transformers has no module for the others, so there is nothing to compare with.
COUNTED = [row["model"] for row in ROWS.values() if row["parameters_meta_device"] is not None]
DEEPSEEK = [
    "DeepSeek-Coder-V2-Instruct",
    "DeepSeek-Coder-V2-Lite-Instruct",
    "DeepSeek-R1",
    "DeepSeek-R1-0528",
    "DeepSeek-R1-Zero",
    "DeepSeek-R1-Distill-Llama-70B",
    "DeepSeek-R1-Distill-Llama-8B",
    "DeepSeek-R1-Distill-Qwen-1.5B",
    "DeepSeek-R1-Distill-Qwen-14B",
    "DeepSeek-R1-Distill-Qwen-32B",
    "DeepSeek-R1-Distill-Qwen-7B",
    "DeepSeek-V2",
    "DeepSeek-V2-Lite",
    "DeepSeek-V2.5",
    "DeepSeek-V3",
    "DeepSeek-V3-0324",
    "DeepSeek-V3.1",
    "deepseek-llm-67b-base",
    "deepseek-llm-7b-base",
]


@pytest.mark.parametrize("stem", ROWS)
def test_row_keeps_to_the_schema(stem: str) -> None:
    row = CatalogueRow.model_validate(ROWS[stem])

    assert row.model.replace("/", "__") == stem


@pytest.mark.parametrize("name", COUNTED)
def test_parameters_equal_the_meta_device(name: str) -> None:
    row = ROWS[name.replace("/", "__")]

    assert row["parameters_meta_device"] == resolve(name).architecture.parameters


def test_catalogue_is_large_and_names_are_unique() -> None:
    names = model_names()

    assert len(names) >= 400
    assert len({name.lower() for name in names}) == len(names)


@pytest.mark.parametrize("name", DEEPSEEK)
def test_all_of_deepseeks_line_is_in(name: str) -> None:
    assert f"deepseek-ai/{name}" in model_names()


@pytest.mark.parametrize(("alias", "name"), aliases().items())
def test_alias_stands_for_a_row(alias: str, name: str) -> None:
    profile = resolve(alias)

    assert profile.name == name
    assert profile.alias_of == f"{alias} stands for {name}"


def test_a_copy_of_a_sibling_says_so() -> None:
    profile = resolve("deepseek-ai/DeepSeek-R1-Zero")

    assert profile.provenance == "copy of a sibling"
    assert "sibling" in profile.note
