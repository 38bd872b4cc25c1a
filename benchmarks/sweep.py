"""
Cells a second of a sweep, and its peak memory, by engine: `python benchmarks/sweep.py [--engine NAME ...] [--speed] [models]`.

All cards of the catalogue × 8 contexts × 8 concurrencies × so many models (82: about a million cells; 511: the whole
catalogue, about six million). Each engine has a process of its own, for the peak. `busy` is what a core worked, which
does not hang on what else the machine does; `refused` are pairs of a model and a card that the engine does not serve.
With `--speed` three models are the default. Ollama, which goes cell by cell, is left out where no engine is named.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

from vram_planner.engines.register import ENGINES, TABLES
from vram_planner.engines.register import engine as engine_of
from vram_planner.model_profiles.resolve import model_names
from vram_planner.planning.sweep import sweep

CONTEXTS = [1024 << power for power in range(8)]
CONCURRENCIES = [1 << power for power in range(8)]
MODELS, MODELS_WITH_SPEED = 82, 3
HEADER = f"{'engine':<14}{'cells':>11}{'seconds':>10}{'busy':>8}{'cells/s':>11}{'cells/s busy':>14}{'MiB':>6}{'refused':>9}"


def main() -> None:
    """One row for each engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", action="append", choices=list(ENGINES))
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("models", nargs="?", type=int)
    asked = parser.parse_args()
    count = asked.models or (MODELS_WITH_SPEED if asked.speed else MODELS)
    engines = asked.engine or list(TABLES)
    if len(engines) == 1:
        print(HEADER)
        print(row(engines[0], count, speed=asked.speed))
        return
    for place, name in enumerate(engines):
        command = [sys.executable, __file__, "--engine", name, *["--speed"] * asked.speed, str(count)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        print("\n".join(told if place == 0 else told[1:]), flush=True)


def row(name: str, count: int, *, speed: bool) -> str:
    """Time one sweep and say what it took."""
    models = list(model_names())[:count]
    quant = "q4_k_m" if engine_of(name).gguf == "own" else None
    start, busy = time.perf_counter(), time.process_time()
    table = sweep(models, ["all"], (CONTEXTS, CONCURRENCIES), quants=[quant], engine=name, speed=speed)
    took, worked = time.perf_counter() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"{name:<14}{len(table):>11,}{took:>10.2f}{worked:>8.2f}{len(table) / took:>11,.0f}"
        f"{len(table) / worked:>14,.0f}{peak:>6,.0f}{len(table.reasons) / len(models) / len(table.gpus):>9.1%}"
    )


if __name__ == "__main__":
    main()
