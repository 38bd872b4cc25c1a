"""
Cold start of the plain command, as a ratio to importing what it stands on, in one run.

    python benchmarks/cold_start.py [--check]

--check exits with 1 above 1.5 × `python -c "import click, pydantic, tabulate"`, or above 60 MB of memory. It compares
the least time of each: other work on the machine only ever adds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

BASE = [sys.executable, "-c", "import click, pydantic, tabulate"]
PLAN = ["-m", "vram_planner.cli.main", "--model", "7b", "--ctx", "8192", "--concurrency", "16"]
CASES = {"candidates": [sys.executable, *PLAN], "one card": [sys.executable, *PLAN, "--gpu", "RTX 4090"]}
ROUNDS, WORST_RATIO, WORST_MB = 40, 1.5, 60
# An installed package has its byte code; where this variable is set, every start would compile the source anew.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, env=ENVIRONMENT
    )
    return time.perf_counter() - start


def peak_mb(command: list[str]) -> float:
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, usage = os.wait4(child.pid, 0)
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_maxrss * unit / 10**6


def main() -> None:
    times: dict[str, list[float]] = {"imports alone": [], **{name: [] for name in CASES}}
    for name, command in {"imports alone": BASE, **CASES}.items():
        seconds(command)  # the first run writes byte code
        times[name] = []
    for _ in range(ROUNDS):
        for name, command in {"imports alone": BASE, **CASES}.items():
            times[name].append(seconds(command))
    base = statistics.median(times["imports alone"])
    print(f"{'imports alone':<14} {base * 1000:6.0f} ms")
    wrong = []
    for name, command in CASES.items():
        took, memory = statistics.median(times[name]), peak_mb(command)
        least = min(times[name]) / min(times["imports alone"])
        print(
            f"{name:<14} {took * 1000:6.0f} ms  {took / base:.2f} × the imports (least against least "
            f"{least:.2f}), peak {memory:.0f} MB"
        )
        if least > WORST_RATIO or memory > WORST_MB:
            wrong.append(name)
    if "--check" in sys.argv and wrong:
        sys.exit(f"too slow or too large: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
