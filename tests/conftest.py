from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from vram_planner.model_profiles.from_config import architecture_from_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.model import Architecture

# A busy machine is no finding: neither a slow example nor slow drawing of examples fails a test.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
ORACLES = Path(__file__).parent / "oracles"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the golden outputs; review the diff"
    )


@pytest.fixture(autouse=True)
def _as_if_without_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A plan without --gpu lists candidates, and none is calibrated, whatever the machine that runs the tests has."""
    monkeypatch.setenv("VRAM_PLANNER_GPU", "none")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-config"))


@lru_cache(maxsize=64)
def _oracle_architecture(name: str) -> Architecture:
    config = json.loads((ORACLES / "configs" / f"{name}.json").read_text(encoding="utf-8"))
    return architecture_from_config(config)


@pytest.fixture(scope="session")
def oracle_architecture() -> Callable[[str], Architecture]:
    """The architecture of a configuration that an oracle was asked about, by its name."""
    return _oracle_architecture


def read_rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ORACLES / name).read_text(encoding="utf-8").splitlines()]
