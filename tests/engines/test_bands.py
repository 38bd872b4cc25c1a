"""What SGLang and TensorRT-LLM assume has a band that holds what their public starts show, and verdicts follow from it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vram_planner as vp
from vram_planner.basis import Basis, Part
from vram_planner.planning.plan import headroom, judge
from vram_planner.units import GIB
from vram_planner.validate.bands import context_band
from vram_planner.validate.evidence import RECORDS
from vram_planner.validate.replay_servers import plan_of

ROWS = [
    json.loads(line) for line in (RECORDS / "start_up_logs.jsonl").read_text(encoding="utf-8").splitlines()
]
# Another program held 3.5 GiB of that card; a build whose load is 25 GiB above the tensors' bytes, nobody knows why; and a
# virtual card that is no product.
_STRANGE = {"sglang-7495-a", "sglang-ix2128-v4-pro", "sglang-3451-a"}
STARTS = [row for row in ROWS if row["engine"] == "sglang" and row.get("gpu") and row["id"] not in _STRANGE]


def plans() -> list[vp.MemoryPlan]:
    asked: dict[str, Any] = {"ctx": 8192, "concurrency": 8, "offline": True}
    return [
        vp.plan(model, engine=engine, gpu=gpu, **asked)
        for engine in ("sglang", "tensorrt-llm")
        for model, gpu in (("8b", "H100"), ("70b", "4x A100 80GB"), ("Qwen/Qwen3-30B-A3B", "2x RTX 5090"))
    ]


def test_no_part_that_is_assumed_stands_without_a_band() -> None:
    for plan in plans():
        for part in plan.parts:
            known = part.basis in (Basis.EXACT, Basis.FORMULA)
            assert part.low <= part.n_bytes <= part.high
            assert known or part.low < part.high, (plan.engine, part.name)


@pytest.mark.parametrize(
    "row", [row for row in STARTS if row["measured"].get("avail_before_gb")], ids=lambda row: row["id"]
)
def test_the_band_holds_what_is_gone_before_the_load(row: dict[str, Any]) -> None:
    """Total of the catalogue − logged "avail mem" before the load; tolerance: 0.01 GiB, the logged decimals."""
    plan = plan_of(row)
    assert plan.gpu is not None
    gone = plan.gpu.total_bytes / GIB - row["measured"]["avail_before_gb"]
    _, low, high = context_band(plan)

    assert low - 0.01 <= gone <= high + 0.01


@pytest.mark.parametrize(
    "row", [row for row in STARTS if row["measured"].get("model_loading_gib")], ids=lambda row: row["id"]
)
def test_the_band_holds_what_the_load_takes_beside_the_tensors(row: dict[str, Any]) -> None:
    """The logged load, a difference of free memory, less our weights: 0.02 to 0.3 GiB, on 8 ranks of an MI355X 0.9."""
    plan = plan_of(row)
    slack = row["measured"]["model_loading_gib"] - plan.part("weights").n_bytes / GIB

    assert 0.01 <= slack <= (0.31 if row.get("tp", 1) < 8 else 0.95)


@given(
    low=st.integers(0, 40),
    more=st.integers(0, 40),
    most=st.integers(0, 40),
    usable=st.integers(1, 120),
    total=st.integers(1, 120),
)
def test_verdicts_follow_from_the_band(low: int, more: int, most: int, usable: int, total: int) -> None:
    """The high end fits: "fits"; the low end alone: "may fit"; not even that: "does not fit"."""
    usable = min(usable, total)
    part = Part(
        name="runtime",
        n_bytes=low + more,
        low_bytes=low,
        high_bytes=low + more + most,
        basis=Basis.ASSUMED,
        source="",
        detail="",
    )
    verdict = judge((part,), usable, total)

    assert (verdict == "fits") == (low + more + most <= usable)
    assert (verdict == "does not fit") == (low > usable)
    assert headroom((part,), usable, total) == usable - low - more
