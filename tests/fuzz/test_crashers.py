"""What the fuzzers once found stays mended, and their seeds are still accepted: they are where fuzzing starts."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CRASHERS = sorted((HERE / "crashers").iterdir())


def driver(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", CRASHERS, ids=lambda path: path.name)
def test_a_crasher_is_answered(path: Path) -> None:
    """The first word of its name says which reader it is for."""
    driver(f"fuzz_{path.name.partition('-')[0]}").check(path.read_bytes())


@pytest.mark.parametrize("name", ["fuzz_gguf", "fuzz_safetensors"])
def test_seeds_are_accepted(name: str) -> None:
    module = driver(name)

    # A GGUF header without tensors is read, and is no model.
    accepted = [module.check(seed) for seed in module.seeds()]
    assert accepted.count(True) >= len(accepted) // 2
