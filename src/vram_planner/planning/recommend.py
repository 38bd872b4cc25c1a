"""One recommendation for every rung: from what is known, how many at once, why, and the engine's own options for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from vram_planner.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vram_planner.planning.plan import MemoryPlan

# What an engine takes whatever the memory. llama.cpp: LLAMA_MAX_SEQ,
# https://github.com/ggml-org/llama.cpp/blob/master/src/llama-cparams.h
_MOST = {"llama.cpp": 256}


class Timed(Protocol):
    """One batch that ran: its size, its latencies in seconds and its tokens a second, None where not timed."""

    @property
    def batch(self) -> int:
        """Requests at once."""

    @property
    def ttft_s(self) -> float | None:
        """Seconds to the first token."""

    @property
    def tpot_s(self) -> float | None:
        """Seconds for each further token."""

    @property
    def tokens_per_s(self) -> float | None:
        """Generated tokens a second over the whole batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """
    What is known of one engine on one device, whoever found it out.

    `at_once` is how many requests of `ctx` tokens the memory holds; None where that is not known. `steps` are
    batches that ran, with their speeds, if any were timed. `at_least` says that the memory may hold more.
    """

    rung: str
    engine: str
    ctx: int
    at_once: int | None
    steps: Sequence[Timed] = ()
    ttft_s: float | None = None
    tpot_s: float | None = None
    at_least: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """
    So many at once; `flags` start the engine so.

    `bound_by` is memory, latency, throughput, engine where it takes no more sequences, or ramp where that ended
    before any of them did.
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
    most = evidence.at_once
    if most is None:
        most = max((step.batch for step in evidence.steps), default=None)
    if most is None:
        raise RequestError(
            "nothing is known of memory or speed here", hint="name a --gpu, or run `vram-plan validate live`"
        )
    count, bound_by, why = _by_memory(evidence, most)
    quick = _quick_enough(evidence, most)
    if quick is not None and quick < count:
        count, bound_by, why = quick, "latency", _latency_words(evidence, quick)
    turn = knee(tuple(step for step in evidence.steps if step.batch <= count))
    if turn is not None and turn < count:
        count, bound_by = turn, "throughput"
        why = f"beyond {turn} at once, twice the requests bring less than 10 % more tokens a second"
    cap = _MOST.get(evidence.engine)
    if cap is not None and cap < count:
        count, bound_by, why = cap, "engine", f"{evidence.engine} takes no more than {cap} sequences at once"
    flags = flags_for(evidence.engine, count, evidence.ctx) if count else ""
    return Recommendation(concurrency=count, bound_by=bound_by, why=why, flags=flags, rung=evidence.rung)


def evidence_of_plan(plan: MemoryPlan) -> Evidence:
    """A plan with a card: its capacity, that of one replica."""
    at_once = None if plan.capacity is None else math.floor(plan.capacity.max_concurrency)
    return Evidence(rung="plan", engine=plan.engine, ctx=plan.request["ctx"], at_once=at_once)


def knee(steps: Sequence[Timed], gain: float = 0.1) -> int | None:
    """
    The batch beyond which doubling brings less than `gain` more tokens a second; None if it never does.

    Steps that are not a doubling count by their share of one.
    """
    timed = [(step.batch, step.tokens_per_s) for step in steps if step.tokens_per_s]
    for (small, slow), (large, fast) in pairwise(timed):
        needed = 1 + gain * min(1.0, (large - small) / small)
        if fast is not None and slow is not None and fast < slow * needed:
            return small
    return None


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


def _quick_enough(evidence: Evidence, most: int) -> int | None:
    if evidence.ttft_s is None and evidence.tpot_s is None:
        return None
    good = [
        step.batch
        for step in evidence.steps
        if step.batch <= most
        and (evidence.ttft_s is None or step.ttft_s is None or step.ttft_s <= evidence.ttft_s)
        and (evidence.tpot_s is None or step.tpot_s is None or step.tpot_s <= evidence.tpot_s)
    ]
    return max(good, default=0 if evidence.steps else None)


def _latency_words(evidence: Evidence, count: int) -> str:
    asked = [
        f"{name} within {value:g} s"
        for name, value in (("TTFT", evidence.ttft_s), ("TPOT", evidence.tpot_s))
        if value is not None
    ]
    return f"{count} is the most that keeps {' and '.join(asked)}"
