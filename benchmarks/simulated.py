"""
Percentiles of simulated servers beside measured ones: 133 online runs of AccelMark, replayed request for request.

Each measured row is three runs of 200 or 300 requests until all have ended. The replay does what the benchmark's code
did:

* the arrival times are its own (`random.Random(42).expovariate`, level after level, loadgen/loadgen.py), and the prompts
  are its own, by its count of tokens;
* its vLLM runner hands `max_num_seqs` to the offline engine alone, and starts the online one as a library: V0 takes 256
  sequences, V1 128 and 2,048 tokens a step (UsageContext.ENGINE_CONTEXT is in no table of engine/arg_utils.py, so
  SchedulerConfig's defaults hold); its SGLang runner cuts outputs at 224 tokens and takes 0.88 of the memory;
* every run sends the same prompts, so engines that cache prefixes of themselves (V1, SGLang) find them from the second
  run on, where the cache holds all of them;
* outputs are not published one by one. What is, is their mean on each server (tokens over requests of its sustained
  run, `output_mean`), cut at 512 tokens by vLLM and at 224 by SGLang of the same model on the same prompts: one lognormal
  has both means (`spread`), and each server's is moved to its own. What the suites declare of lengths is not what they
  send: suite A says that half of its prompts have 280 tokens and a hundredth 2,100; of those it sends it is 203 and 582;
* the server was started before and had served nothing: what it compiles at its first requests is in the measured tail of
  the first level, and not in the replay (a warm-up was added after the last of these runs). So first levels are told
  apart; from the second on it is warm.

Source: https://github.com/FreedomIntelligence/AccelMark/tree/5797fc42745be2494e6213938d9e5afa0c6c5bef
"""

from __future__ import annotations

import json
from functools import cache
from itertools import accumulate
from math import exp, inf, log
from pathlib import Path
from random import Random
from statistics import NormalDist, median
from typing import TYPE_CHECKING, Any, NamedTuple

from vram_planner.errors import PlannerError
from vram_planner.planning.arrivals import Listed
from vram_planner.planning.batching import Server
from vram_planner.planning.estimate import estimate
from vram_planner.planning.performance import Assumptions
from vram_planner.planning.request import PlanRequest
from vram_planner.planning.simulate import quantile, watch
from vram_planner.planning.step_costs import costs_of, room_of, rules_of
from vram_planner.planning.workload import Lognormal

if TYPE_CHECKING:
    from vram_planner.planning.plan import MemoryPlan

DATA = Path(__file__).parent / "data"
SHARES = (0.5, 0.9, 0.99)
RUNS, SEED = 3, 42
SGLANG_LIMIT, SGLANG_SHARE = 224, 0.88
V1_SEATS, V1_TOKENS = 128, 2048
KEPT_UP_S = 2.0


class Suite(NamedTuple):
    """Requests, longest sequence, limit of outputs, rates (suites/*/suite.json)."""

    requests: int
    ctx: int
    limit: int
    rates: tuple[int, ...]


SUITES = {
    "A": Suite(300, 4096, 512, (5, 25, 100)),
    "B": Suite(200, 4096, 512, (2, 5, 10, 25)),
    "F": Suite(300, 2048, 256, (10, 40)),
    "G": Suite(300, 4096, 512, (2, 10, 40)),
}


@cache
def times(suite: str) -> dict[int, list[list[float]]]:
    """Arrival times of each run of each level, as the benchmark's generator made them."""
    random, found = Random(SEED), {}
    for rate in SUITES[suite].rates:
        found[rate] = [
            list(accumulate(random.expovariate(rate) for _ in range(SUITES[suite].requests)))
            for _ in range(RUNS)
        ]
    return found


@cache
def rows() -> tuple[dict[str, Any], ...]:
    """The measured rows."""
    lines = (DATA / "online_percentiles.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line) for line in lines)


def cut_mean(lengths: Lognormal, limit: int) -> float:
    """E[min(X, c)] = e^(μ + σ²/2) · Φ((ln c − μ − σ²)/σ) + c · (1 − Φ((ln c − μ)/σ))."""
    at, sigma, normal = log(limit / lengths.median), lengths.sigma, NormalDist()
    below = lengths.median * exp(sigma * sigma / 2) * normal.cdf(at / sigma - sigma)
    return below + limit * (1 - normal.cdf(at / sigma))


@cache
def outputs(sigma: float, limit: int, mean: float) -> Lognormal:
    """The lognormal of this spread whose values cut at the limit have this mean."""
    low, high = 1.0, 1e6
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if cut_mean(Lognormal(middle, sigma), limit) < mean else (low, middle)
    return Lognormal((low * high) ** 0.5, sigma)


@cache
def spread() -> float:
    """σ of outputs: cut at SGLang's limit and at suite A's they have the means that the servers of suite A counted."""
    means = {
        engine: median(
            [row["output_mean"] for row in rows() if row["suite"] == "A" and row["engine"] == engine]
        )
        for engine in ("sglang", "vllm")
    }
    low, high = 0.05, 4.0
    for _ in range(40):
        sigma = (low + high) / 2
        short = cut_mean(outputs(sigma, SUITES["A"].limit, means["vllm"]), SGLANG_LIMIT)
        low, high = (sigma, high) if short > means["sglang"] else (low, sigma)
    return (low + high) / 2


def planned(row: dict[str, Any]) -> MemoryPlan:
    """The server as the runner started it; PlannerError where it cannot be planned."""
    suite, vllm = SUITES[row["suite"]], row["engine"] == "vllm"
    newer = vllm and row["version"] != "0.7.3"
    plan = estimate(
        PlanRequest.of(
            model=row["model"], ctx=suite.ctx, concurrency=1, engine=row["engine"], engine_version=row["version"],
            gpu=row["gpu"], gpu_count=row["gpus"], tp=row["tp"], pp=row["pp"], calibration=False,
            dtype="float16" if row["dtype"] in ("float16", "FP16") else None,
            max_num_seqs=V1_SEATS if newer else None, max_num_batched_tokens=V1_TOKENS if newer else None,
            gpu_memory_utilization=row["util"] if vllm else SGLANG_SHARE, enforce_eager=row["enforce_eager"] or None,
        )
    )  # fmt: skip
    if plan.served is None or plan.fits is False:
        raise PlannerError("by the plan it does not fit", hint="")
    return plan


def replay(row: dict[str, Any], prompts: list[int]) -> dict[str, list[float]]:
    """Simulated p50, p90 and p99 of TTFT and TPOT in milliseconds; PlannerError where it cannot be planned."""
    suite, plan = SUITES[row["suite"]], planned(row)
    served = plan.served
    if served is None:
        raise PlannerError("no card", hint="")
    costs = costs_of(served, assumed=Assumptions(embedded=True))
    limit = SGLANG_LIMIT if row["engine"] == "sglang" else suite.limit
    room, rules = room_of(served, plan.engine), rules_of(served, costs.load, limit)
    lengths = outputs(spread(), limit, row["output_mean"])
    random = Random(0)
    answers = [max(1, min(limit, round(lengths.at(random.random())))) for _ in range(suite.requests)]
    random.shuffle(answers)
    requests = list(zip(prompts, answers, strict=False))
    kept = room.pool == inf or sum(room.need(p + o) for p, o in requests) <= room.pool
    figures: dict[str, list[float]] = {"ttft_s": [], "tpot_s": []}
    for number, arrivals in enumerate(times(row["suite"])[row["rate"]]):
        again = number > 0 or row["rate"] != suite.rates[0]
        server = Server(
            costs=costs,
            arrivals=Listed((at, *each) for at, each in zip(arrivals, requests, strict=True)),
            rules=rules,
            room=room,
            prefix_hit=1.0 if again and kept and row["version"] != "0.7.3" else 0.0,
        )
        run = watch(server, suite.requests, warm_up=0)
        for name, values in figures.items():
            values += [getattr(each, name) for each in run.requests]
    return {
        name: [quantile(sorted(values), share) * 1000 for share in SHARES] for name, values in figures.items()
    }


def compared() -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Every row with what was simulated, and how many could not be, by reason."""
    known = json.loads((DATA / "online_prompts.json").read_text(encoding="utf-8"))
    found, left_out = [], {}
    for each in rows():
        row = dict(each)
        try:
            row["simulated"] = replay(row, known["edge" if row["suite"] == "F" else "standard"])
        except PlannerError as error:
            left_out[str(error)] = left_out.get(str(error), 0) + 1
            continue
        found.append(row)
    return found, left_out


def groups(found: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """First levels; of the later ones those whose measured p99 of TTFT is below two seconds, the others, and the newest vLLM."""
    first = [row for row in found if row["rate"] == SUITES[row["suite"]].rates[0]]
    later = [row for row in found if row not in first]
    calm = [row for row in later if row["ttft_ms"][2] < KEPT_UP_S * 1000]
    return {
        "first level": first,
        "keep up": calm,
        "overrun": [row for row in later if row not in calm],
        "of the later: vLLM 0.19, 0.20": [
            row for row in later if row["engine"] == "vllm" and row["version"] != "0.7.3"
        ],
    }


def table() -> str:
    """Median errors by figure, percentile and load, and the median of simulated over measured."""
    found, left_out = compared()
    lines = [
        "| rows | | figure | p50 | p90 | p99 |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for name, group in groups(found).items():
        for figure in ("ttft", "tpot"):
            cells = []
            for index in range(len(SHARES)):
                ratios = [
                    row["simulated"][f"{figure}_s"][index] / row[f"{figure}_ms"][index] for row in group
                ]
                cells.append(f"{median([abs(ratio - 1) for ratio in ratios]):.0%} ({median(ratios):.2f})")
            lines.append(f"| {name} | {len(group)} | {figure.upper()} | {' | '.join(cells)} |")
    if left_out:
        reasons = "; ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        lines += ["", f"Left out: {reasons}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table())
