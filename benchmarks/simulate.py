"""Simulated requests a second of processor time, those to warm up and the slower runs with them: `python benchmarks/simulate.py`."""

from __future__ import annotations

import time
from typing import Any

import vram_planner as vp

REQUESTS, RUNS = 5000, 2
# Watched requests have a fifth as many before them, and each run a second one with slower steps.
ALL = 1.2 * 2 * REQUESTS * RUNS
CASES: dict[str, dict[str, Any]] = {
    "chat at 2/s, RTX 4090": {"gpu": "RTX 4090", "workload": "chat", "rate": 2.0},
    "chat at 15/s, H100": {"gpu": "H100", "workload": "chat", "rate": 15.0},
    "full cache, 200 users": {"gpu": "L40S", "prompt_tokens": 500, "output_tokens": 800, "users": 200},
    "the same on SGLang": {
        "gpu": "L40S", "prompt_tokens": 500, "output_tokens": 800, "users": 200, "engine": "sglang",
    },
}  # fmt: skip


def main() -> None:
    for name, options in CASES.items():
        begun = time.process_time()
        vp.simulate("7b", requests=REQUESTS, runs=RUNS, calibration=False, **options)
        print(f"{name:<26} {ALL / (time.process_time() - begun):8,.0f} requests a second")


if __name__ == "__main__":
    main()
