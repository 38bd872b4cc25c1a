"""The example of the how-to is run as it stands there, through the whole house."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import pytest

import vram_planner as vp
from vram_planner.engines import register
from vram_planner.planning.sweep import _Sweep

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-an-engine.md"


def _made(name: str, example: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(example, str(PAGE), "exec"), vars(module))  # noqa: S102  our own page
    return module


def _examples() -> list[str]:
    return re.findall(r"```python\n(# src/.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def test_the_example_table_is_right_in_every_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numpy")
    chosen, table = _examples()
    _made("example_engine", chosen, monkeypatch)
    _made("example_table", table, monkeypatch)
    monkeypatch.setitem(register.ENGINES, "example", "example_engine:Example")
    monkeypatch.setitem(register.TABLES, "example", "example_table")
    asked: dict[str, Any] = {
        "models": ["7b"],
        "gpus": ["RTX 4090", "L4"],
        "ctx": [1000, 60_000],
        "concurrency": [3, 1, 9],
    }
    cell_by_cell = Mock()
    monkeypatch.setattr(_Sweep, "_one_by_one", cell_by_cell)
    rows = vp.sweep(**asked, engine="example").to_rows()
    monkeypatch.undo()
    _made("example_engine", chosen, monkeypatch)
    monkeypatch.setitem(register.ENGINES, "example", "example_engine:Example")

    assert not cell_by_cell.called
    assert rows == vp.sweep(**asked, engine="example").to_rows()
    assert {row["verdict"] for row in rows} == {"fits", "does not fit"}


def test_the_example_engine_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    _made("example_engine", _examples()[0], monkeypatch)
    monkeypatch.setitem(register.ENGINES, "example", "example_engine:Example")
    plan = vp.plan("7b", ctx=4096, concurrency=2, engine="example", gpu="RTX 4090")

    assert plan.capacity is not None
    assert plan.fits is True
    assert plan.part("kv_cache").n_bytes == 2 * 4096 * 57_344
    assert plan.part("activations").n_bytes == 2048 * 3584 * 16
    assert plan.capacity.max_concurrency == plan.capacity.kv_cache_tokens / 4096
    assert plan.performance is None
    cards = vp.plan("7b", ctx=4096, concurrency=2, engine="example").candidates
    assert cards
    assert all(card.headroom_bytes >= 0 for card in cards if card.fits)
    short = vp.plan("70b", ctx=4096, concurrency=2, engine="example", gpu="RTX 4090")
    assert short.fits is False
