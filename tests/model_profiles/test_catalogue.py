"""Every row of the catalogue against transformers' own module on the meta device (transformers 5.23), exactly."""

import json
from pathlib import Path
from typing import Any

import pytest

import vram_planner.model_profiles as package
from vram_planner.model_profiles import resolve as module
from vram_planner.model_profiles.resolve import aliases, model_names, resolve
from vram_planner.model_profiles.schema import CatalogueRow

CATALOGUE = Path(package.__file__).parent / "catalogue"
ROWS = {
    path.stem: json.loads(path.read_text("utf-8")) for path in sorted((CATALOGUE / "models").glob("*.json"))
}
# transformers has no module for the others, so there is nothing to compare with.
SOURCES = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "oracles" / "catalogue_sources.jsonl")
    .read_text("utf-8")
    .splitlines()
]
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


@pytest.mark.parametrize("read", SOURCES, ids=[read["model"] for read in SOURCES])
def test_row_holds_what_was_read_in_its_source(read: dict[str, Any]) -> None:
    """Oracle: the figures of the named public source, key by key; no tolerance."""
    row = ROWS[read["model"].replace("/", "__")]

    assert row["source"] == read["source"]
    assert {key: _at(row["config"], key) for key in read["read"]} == read["read"]


def _at(config: Any, key: str) -> Any:
    for step in key.split("."):
        config = config.get(step)
    return config


def test_the_deepseek_r1_line_is_not_recalled() -> None:
    for size in ("1.5b", "7b", "8b", "14b", "32b", "70b", "671b"):
        assert resolve(size).provenance not in {"recalled, no source read", "copy of a sibling"}


def test_a_row_that_was_not_read_says_so() -> None:
    """Such a row names no file, or is told to be a copy; the others name one."""
    for row in ROWS.values():
        if row["source"].startswith("no file read"):
            assert row["provenance"] in {"recalled, no source read", "copy of a sibling"}, row["model"]


def test_no_context_is_a_ports_own_limit() -> None:
    """Below 2,048 tokens are the smallest Pythias and GPT-2's kin alone, all of them small."""
    for row in ROWS.values():
        context = row["config"].get("max_position_embeddings")
        small = (row["parameters_meta_device"] or 0) < 100_000_000
        assert context is None or context >= 2048 or small, row["model"]


def test_starcoder2_slides_in_every_size() -> None:
    for size in ("3b", "7b", "15b"):
        caches = resolve(f"bigcode/starcoder2-{size}").architecture.caches
        assert [cache.window for cache, _ in caches] == [4096], size


def test_an_alias_reads_its_own_row_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the directory is listed nor a second row opened."""
    read: list[str] = []

    def noted(file: str) -> Any:
        read.append(file)
        return json.loads((CATALOGUE / file).read_text("utf-8"))

    monkeypatch.setattr(module, "_read_json", noted)
    monkeypatch.setattr(module, "_all_files", lambda: pytest.fail("the directory was listed"))
    module.aliases()
    read.clear()
    module._from_catalogue.cache_clear()

    assert resolve("14b").name == "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B"
    assert read == ["models/deepseek-ai__DeepSeek-R1-Distill-Qwen-14B.json"]
