"""Which engine loads which format. Sources stand with the data: engines/profiles/loads.json."""

import json
from pathlib import Path
from typing import Any

import pytest

import vram_planner as vp
from vram_planner.engines import loads
from vram_planner.engines.register import ENGINES

ASK: dict[str, Any] = {"ctx": 2048, "concurrency": 1, "gpu": "none"}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("quant", ["exl2:4.0", "exl3-3.5bpw"])
def test_exllama_formats_are_loaded_by_none_and_their_size_is_told(engine: str, quant: str) -> None:
    with pytest.raises(vp.PlannerError, match="does not load exl") as error:
        vp.plan("7b", engine=engine, quant=quant, **ASK)

    assert error.value.hint
    if engine not in {"llama.cpp", "ollama"}:
        assert "GB of weights" in str(error.value)


@pytest.mark.parametrize(
    ("engine", "quant", "loaded"),
    [
        ("vllm", "int4wo", True),
        ("vllm", "hqq", False),
        ("vllm", "auto-round", True),
        ("sglang", "int8wo", False),
        ("sglang", "nf4", True),
        ("sglang", "hqq", False),
        ("tensorrt-llm", "fp8", True),
        ("tensorrt-llm", "float8wo", False),
        ("transformers", "hqq", True),
        ("transformers", "int4wo", True),
        ("llama.cpp", "int4wo", False),
    ],
)
def test_an_engine_loads_what_its_register_lists(engine: str, quant: str, loaded: bool) -> None:
    if loaded:
        assert vp.plan("7b", engine=engine, quant=quant, **ASK).total_bytes > 0
    else:
        with pytest.raises(vp.PlannerError, match="does not load"):
            vp.plan("7b", engine=engine, quant=quant, **ASK)


@pytest.mark.parametrize(("version", "noted"), [("0.27", False), ("0.28.0", True), (None, True)])
def test_bitsandbytes_is_a_package_of_its_own_since_vllm_0_28(version: str | None, noted: bool) -> None:
    plan = vp.plan("7b", quant="nf4", engine_version=version, **ASK)

    assert any("vllm-bnb-plugin" in warning for warning in plan.warnings) is noted


def test_hqq_was_loaded_by_older_versions() -> None:
    assert vp.plan("7b", quant="hqq", engine_version="0.10", **ASK).total_bytes > 0


def test_each_line_has_its_source_and_names_what_is_known() -> None:
    data = json.loads((Path(loads.__file__).parent / "profiles" / "loads.json").read_text("utf-8"))
    families = {family for _, family in loads._FAMILIES} | {"gguf"}
    for engine, rows in data["engines"].items():
        assert engine in ENGINES
        for row in rows:
            assert row["source"]
            assert set(row["families"]) <= families
            assert ("note" if row["loads"] else "hint") in row
