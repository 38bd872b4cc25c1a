"""The example of the how-to is run as it stands there, through the whole house."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import vram_planner as vp
from vram_planner.engines import register

if TYPE_CHECKING:
    import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-an-engine.md"


def test_the_example_engine_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    example = re.search(r"```python\n(# src/.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert example
    module = ModuleType("example_engine")
    monkeypatch.setitem(sys.modules, "example_engine", module)
    exec(compile(example[1], str(PAGE), "exec"), vars(module))  # noqa: S102  our own page
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
