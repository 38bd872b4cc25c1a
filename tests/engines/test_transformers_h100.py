"""
The transformers plan against live runs on one H100 80GB (2026-11-22): tests/oracles/transformers_h100.jsonl.

Each row is one process of `vram-plan validate live`, random weights or the same saved and loaded as files. The reserve's
share was fitted on DeepSeek-R1-Distill-Qwen 1.5B and 7B alone; the other three models were kept out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vram_planner.planning.estimate import estimate
from vram_planner.planning.request import PlanRequest

if TYPE_CHECKING:
    from vram_planner.planning.plan import MemoryPlan

MACHINE, *ROWS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "oracles" / "transformers_h100.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()
]
RAN = [row for row in ROWS if "out_of_memory" not in row]
NAMES = [f"{row['model'].split('/')[-1]}-{row['ctx']}-{row['attn']}-{row['batch']}" for row in RAN]
FITTED_ON = ("DeepSeek-R1-Distill-Qwen-1.5B", "DeepSeek-R1-Distill-Qwen-7B")
# Of the whole process. One row is known to be worse, on the safe side: 0.5B with eager, whose small tensors fill the holes.
TOLERANCE, KNOWN_OVER = 0.05, {("Qwen/Qwen2.5-0.5B", 8192, "eager", 1): 0.13}


def plan_of(row: dict[str, Any], gpu: str | None = "h100") -> MemoryPlan:
    return estimate(
        PlanRequest.of(
            model=row["model"],
            ctx=row["ctx"],
            prompt_tokens=row["prompt"],
            concurrency=row["batch"],
            engine="transformers",
            attn=row["attn"],
            gpu=gpu,
            offline=True,
            calibration=False,
        )
    )


@pytest.mark.parametrize("row", RAN, ids=NAMES)
def test_weights_cache_and_peak_are_as_torch_allocated_them(row: dict[str, Any]) -> None:
    plan = plan_of(row)
    parts = {part.name: part.n_bytes for part in plan.parts}
    assert parts["weights"] == pytest.approx(row["weights_bytes"], rel=1e-3)
    assert parts["kv_cache"] == row["cache_bytes"]
    peak = parts["weights"] + parts["kv_cache"] + parts["activations"]
    assert peak == pytest.approx(row["peak_bytes"], rel=2e-3)


@pytest.mark.parametrize("row", RAN, ids=NAMES)
def test_the_whole_process_is_within_five_per_cent(row: dict[str, Any]) -> None:
    held = row["reserved_peak_bytes"] + row["context_bytes"]
    error = sum(part.n_bytes for part in plan_of(row).parts) / held - 1
    assert error >= -TOLERANCE
    assert error <= KNOWN_OVER.get((row["model"], row["ctx"], row["attn"], row["batch"]), TOLERANCE)


def test_the_runtime_is_called_measured_on_hopper_alone() -> None:
    kinds = {
        gpu: next(part.basis.value for part in plan_of(RAN[0], gpu).parts if part.name == "runtime")
        for gpu in ("h100", "a100-80gb", "b200")
    }
    assert kinds == {"h100": "measured", "a100-80gb": "assumed", "b200": "assumed"}


def test_what_ran_out_of_memory_is_not_planned_to_fit() -> None:
    failed = [row for row in ROWS if "out_of_memory" in row]
    assert len(failed) == 4
    for row in failed:
        plan = plan_of(row)
        assert plan.capacity is not None
        assert plan.capacity.max_concurrency < row["batch"]
