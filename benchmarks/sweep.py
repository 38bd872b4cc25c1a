"""
Cells a second of a sweep, and its peak memory: `python benchmarks/sweep.py [models]`.

All cards of the catalogue × 8 contexts × 8 concurrencies × so many models (82: about a million cells; 400: the
whole catalogue, about five million).
"""

from __future__ import annotations

import resource
import sys
import time

from vram_planner.model_profiles.resolve import model_names
from vram_planner.planning.sweep import sweep

CONTEXTS = [1024 << power for power in range(8)]
CONCURRENCIES = [1 << power for power in range(8)]


def main() -> None:
    """Time one sweep and say what it took."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 82
    models = list(model_names())[:count]
    start, busy = time.perf_counter(), time.process_time()
    table = sweep(models, ["all"], (CONTEXTS, CONCURRENCIES))
    took, worked = time.perf_counter() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{len(models)} models × {len(table.gpus)} cards × 8 contexts × 8 concurrencies = {len(table):,} cells"
        f" in {took:.2f} s ({len(table) / took:,.0f} a second; {worked:.2f} s of a core), peak {peak:,.0f} MiB;"
        f" {len(table.reasons):,} of {len(models) * len(table.gpus):,} pairs refused"
    )


if __name__ == "__main__":
    main()
