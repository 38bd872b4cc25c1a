"""
Percentiles of simulated servers beside measured ones: 133 online runs of AccelMark, replayed request for request.

Each measured row is three runs of 200 or 300 requests at Poisson times without warm-up, until all have ended; the
simulation does the same. Prompts are those of the benchmark, by its own count of tokens; outputs are drawn from the
lognormal that its suites declare, cut at their limit, for they are not published. Source:
https://github.com/FreedomIntelligence/AccelMark/tree/5797fc42745be2494e6213938d9e5afa0c6c5bef/results
"""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from vram_planner.errors import PlannerError
from vram_planner.planning.arrivals import Poisson
from vram_planner.planning.batching import Server
from vram_planner.planning.estimate import estimate
from vram_planner.planning.request import PlanRequest
from vram_planner.planning.simulate import quantile, watch
from vram_planner.planning.step_costs import costs_of, room_of, rules_of
from vram_planner.planning.workload import Lognormal

DATA = Path(__file__).parent / "data"
SHARES = (0.5, 0.9, 0.99)
RUNS = 3
Z99 = 2.3263
# Suite -> requests, longest sequence, declared median and 99th percentile of outputs, their limit (suites/*/suite.json).
SUITES = {
    "A": (300, 4096, 310, 1200, 512),
    "B": (200, 4096, 310, 1200, 512),
    "F": (300, 2048, 150, 400, 256),
    "G": (300, 4096, 310, 1200, 512),
}
# Where less than this share of the offered rate was served, waits are the length of the run.
KEPT_UP_S = 2.0


def replay(row: dict[str, Any], prompts: list[int]) -> dict[str, list[float]]:
    """Simulated p50, p90 and p99 of TTFT and TPOT in milliseconds; PlannerError where it cannot be planned."""
    count, ctx, middle, p99, limit = SUITES[row["suite"]]
    plan = estimate(
        PlanRequest.of(
            model=row["model"], ctx=ctx, concurrency=1, engine=row["engine"], engine_version=row["version"],
            gpu=row["gpu"], gpu_count=row["gpus"], tp=row["tp"], pp=row["pp"], calibration=False,
            dtype="float16" if row["dtype"] in ("float16", "FP16") else None, max_num_seqs=row["max_num_seqs"],
            gpu_memory_utilization=row["util"], enforce_eager=row["enforce_eager"] or None,
        )
    )  # fmt: skip
    served = plan.served
    if served is None or plan.fits is False:
        raise PlannerError("by the plan it does not fit", hint="")
    costs = costs_of(served)
    outputs = Lognormal.of(median=middle, sigma=log(p99 / middle) / Z99)
    room, rules = room_of(served, plan.engine), rules_of(served, costs.load)
    figures: dict[str, list[float]] = {"ttft_s": [], "tpot_s": []}
    for number in range(RUNS):
        random = Random(number)
        order = iter(prompts[:count])
        arrivals = Poisson(
            row["rate"],
            lambda rate, random=random: random.expovariate(rate),
            lambda random=random, order=order: (
                next(order), max(1, min(limit, round(outputs.at(random.random())))),
            ),
            most=count,
        )  # fmt: skip
        run = watch(Server(costs=costs, arrivals=arrivals, rules=rules, room=room), count, warm_up=0)
        for name, values in figures.items():
            values += [getattr(each, name) for each in run.requests]
    return {
        name: [quantile(sorted(values), share) * 1000 for share in SHARES] for name, values in figures.items()
    }


def compared() -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Every row with what was simulated, and how many could not be, by reason."""
    known = json.loads((DATA / "online_prompts.json").read_text(encoding="utf-8"))
    found, left_out = [], {}
    for line in (DATA / "online_percentiles.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        try:
            row["simulated"] = replay(row, known["edge" if row["suite"] == "F" else "standard"])
        except PlannerError as error:
            left_out[str(error)] = left_out.get(str(error), 0) + 1
            continue
        found.append(row)
    return found, left_out


def table() -> str:
    """Median errors by figure, percentile and load."""
    rows, left_out = compared()
    calm = [row for row in rows if row["ttft_ms"][2] < KEPT_UP_S * 1000]
    lines = [
        "",
        "| rows | figure | percentile | rows | median error | simulated / measured, median | within a factor of 2 |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name, group in (("keep up", calm), ("overrun", [row for row in rows if row not in calm])):
        for figure in ("ttft", "tpot"):
            for index, share in enumerate(SHARES):
                ratios = [
                    row["simulated"][f"{figure}_s"][index] / row[f"{figure}_ms"][index]
                    for row in group
                    if row[f"{figure}_ms"][index]
                ]
                errors = [abs(ratio - 1) for ratio in ratios]
                near = sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios)  # noqa: PLR2004  a factor of two
                lines.append(
                    f"| {name} | {figure.upper()} | p{share * 100:g} | {len(ratios)} | {median(errors):.0%} |"
                    f" {median(ratios):.2f} | {near:.0%} |"
                )
    if left_out:
        reasons = "; ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        lines += ["", f"Left out: {reasons}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table())
