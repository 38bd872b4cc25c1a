"""One recommendation for every rung: from what is known, how many at once, why, and the engine's own options for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vram_planner.errors import RequestError
from vram_planner.validate.ramp import Ended, Ramp, Step, knee

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.validate.shadow_run import Shadowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """
    What is known of one engine on one device, whoever found it out.

    `at_once` is how many requests of `ctx` tokens the memory holds; None where that is not known. `steps` are
    batches with their speeds, if any were timed. `at_least` says that the memory may hold more.
    """

    rung: str
    engine: str
    ctx: int
    at_once: int | None
    steps: tuple[Step, ...] = ()
    ttft_s: float | None = None
    tpot_s: float | None = None
    at_least: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """
    So many at once; `flags` start the engine so.

    `bound_by` is memory, latency, throughput, or ramp where it ended before any of them did.
    """

    concurrency: int
    bound_by: str
    why: str
    flags: str
    rung: str


def recommend(evidence: Evidence) -> Recommendation:
    """
    The largest batch that fits, is quick enough, and still buys throughput.

    Raises RequestError where the evidence says nothing of memory and has no timed batch.
    """
    timed = tuple(step for step in evidence.steps if step.ended is Ended.RAN)
    most = evidence.at_once
    if most is None:
        most = max((step.batch for step in timed), default=None)
    if most is None:
        raise RequestError(
            "nothing is known of memory or speed here", hint="name a --gpu, or run `vram-plan validate live`"
        )
    count, bound_by, why = _by_memory(evidence, most)
    quick = _quick_enough(evidence, timed, most)
    if quick is not None and quick < count:
        count, bound_by, why = quick, "latency", _latency_words(evidence, quick)
    turn = knee(tuple(step for step in timed if step.batch <= count))
    if turn is not None and turn < count:
        count, bound_by = turn, "throughput"
        why = f"beyond {turn} at once, twice the requests bring less than 10 % more tokens a second"
    flags = flags_for(evidence.engine, count, evidence.ctx) if count else ""
    return Recommendation(concurrency=count, bound_by=bound_by, why=why, flags=flags, rung=evidence.rung)


def evidence_of_plan(plan: MemoryPlan) -> Evidence:
    """A plan with a card: its capacity."""
    at_once = None if plan.capacity is None else math.floor(plan.capacity.max_concurrency)
    return Evidence(rung="plan", engine=plan.engine, ctx=plan.request["ctx"], at_once=at_once)


def evidence_of_shadow(found: Shadowed, usable_bytes: int) -> Evidence:
    """
    A shadow of some requests on so much memory: weights once, the rest in proportion.

    The plan's runtime part is taken off first, for a shadow has none.
    """
    weights = found.moments[0].by_category["weights"]
    runtime = sum(part.n_bytes for part in found.plan.parts if part.name == "runtime")
    batch = int(found.request["concurrency"])
    each = max(1, (found.peak.peak_bytes - weights) // batch)
    at_once = max(0, usable_bytes - weights - runtime) // each
    return Evidence(rung="shadow", engine=found.engine, ctx=int(found.request["ctx"]), at_once=at_once)


def evidence_of_ramp(ramp: Ramp, *, engine: str, ctx: int) -> Evidence:
    """A live ramp: what fitted, and how fast each batch was."""
    return Evidence(
        rung="live",
        engine=engine,
        ctx=ctx,
        at_once=ramp.largest_that_fits,
        steps=ramp.ran,
        ttft_s=ramp.limits.ttft_s,
        tpot_s=ramp.limits.tpot_s,
        at_least=not ramp.complete or ramp.largest_that_fits == ramp.limits.most,
    )


def evidence_of_server(
    metrics: Mapping[str, Any],
    *,
    engine: str,
    ctx: int,
    steps: tuple[Step, ...] = (),
    limits: tuple[float | None, float | None] = (None, None),
    at_least: bool = False,
) -> Evidence:
    """
    A running server: `kv_cache_tokens`, or its own `max_concurrency`, and what batches were timed.

    `limits` are the TTFT and TPOT to keep; `at_least` says that it was not driven to what its memory holds.
    """
    at_once = metrics.get("max_concurrency")
    if at_once is None and metrics.get("kv_cache_tokens") is not None:
        at_once = metrics["kv_cache_tokens"] / ctx
    return Evidence(
        rung="server",
        engine=engine,
        ctx=ctx,
        at_once=None if at_once is None else math.floor(at_once),
        steps=steps,
        ttft_s=limits[0],
        tpot_s=limits[1],
        at_least=at_least,
    )


def flags_for(engine: str, concurrency: int, ctx: int) -> str:
    """The options that make an engine serve so many requests of so many tokens."""
    return {
        "vllm": f"--max-model-len {ctx} --max-num-seqs {concurrency}",
        "sglang": f"--context-length {ctx} --max-running-requests {concurrency}",
        "llama.cpp": f"--parallel {concurrency} --ctx-size {ctx * concurrency}",
        "ollama": f"OLLAMA_CONTEXT_LENGTH={ctx} OLLAMA_NUM_PARALLEL={concurrency} ollama serve",
        "tensorrt-llm": f"--max_seq_len {ctx} --max_batch_size {concurrency}",
        "transformers": f"a batch of {concurrency} in generate(max_length={ctx})",
    }.get(engine, "")


def _by_memory(evidence: Evidence, most: int) -> tuple[int, str, str]:
    if most < 1:
        return 0, "memory", f"not even one request of {evidence.ctx:,} tokens fits"
    more = "; the memory may hold more" if evidence.at_least else ""
    known = {
        "plan": "by the plan",
        "shadow": "by the shadow",
        "live": "as measured",
        "server": "as the server says",
    }
    return (
        most,
        "ramp" if evidence.at_least else "memory",
        f"{most} requests of {evidence.ctx:,} tokens fit, {known.get(evidence.rung, '')}{more}",
    )


def _quick_enough(evidence: Evidence, timed: tuple[Step, ...], most: int) -> int | None:
    if evidence.ttft_s is None and evidence.tpot_s is None:
        return None
    good = [
        step.batch
        for step in timed
        if step.batch <= most
        and (evidence.ttft_s is None or step.ttft_s is None or step.ttft_s <= evidence.ttft_s)
        and (evidence.tpot_s is None or step.tpot_s is None or step.tpot_s <= evidence.tpot_s)
    ]
    return max(good, default=0 if timed else None)


def _latency_words(evidence: Evidence, count: int) -> str:
    asked = [
        f"{name} within {value:g} s"
        for name, value in (("TTFT", evidence.ttft_s), ("TPOT", evidence.tpot_s))
        if value is not None
    ]
    return f"{count} is the most that keeps {' and '.join(asked)}"
