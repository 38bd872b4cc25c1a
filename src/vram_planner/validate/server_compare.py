"""The plan of a running server's own settings, and its figures beside those that the server tells."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vram_planner.errors import RequestError
from vram_planner.planning.estimate import estimate
from vram_planner.planning.request import PlanRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.validate.server_facts import ServerFacts

_GPU_VARIABLE = "VRAM_PLANNER_GPU"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """
    One figure: planned and served, in the same unit.

    `at_least` is for what was asked of the server: it holds where the server gives as much or more. Rows that are not
    `judged` are shown only, and `how` says why.
    """

    name: str
    unit: str
    planned: float
    served: float
    how: str
    judged: bool = True
    at_least: bool = False

    @property
    def error(self) -> float:
        """Planned against served, relative to what is served; positive: the plan was too high."""
        if self.served:
            return (self.planned - self.served) / self.served
        return 0.0 if not self.planned else float("inf")

    def holds(self, tolerance: float) -> bool:
        """Whether the plan held here."""
        if not self.judged:
            return True
        return self.error <= tolerance if self.at_least else abs(self.error) <= tolerance


def request_of(facts: ServerFacts, asked: Mapping[str, Any], *, is_local: bool) -> PlanRequest:
    """
    The plan that the server's settings ask for; `asked` are the user's options and go before what the server tells.

    No hub is asked for a model's configuration: only the server is contacted. A server elsewhere has not this
    machine's card. Raises RequestError where neither names the model or the context.
    """
    told = {name: value for name, value in asked.items() if value is not None}
    context = facts.context or told.get("ctx")
    model = told.pop("model", None) or facts.source
    if context is None:
        raise RequestError("it does not tell its longest request", hint="say it: --ctx TOKENS")
    told.pop("ctx", None)
    told.pop("concurrency", None)
    if "gpu" not in told and not is_local and not os.environ.get(_GPU_VARIABLE):
        told["gpu"] = "none"
    options = {**facts.options, **told}
    if facts.engine in ("llama.cpp", "ollama"):
        options.pop("engine_version", None)
    options = {name: value for name, value in options.items() if name not in ("offline", "calibration")}
    return PlanRequest.of(
        model=model,
        ctx=context,
        concurrency=told.get("slots") or facts.seats if facts.engine == "llama.cpp" else 1,
        engine=facts.engine,
        offline=True,
        calibration=False,
        **options,
    )


def plan_of_server(facts: ServerFacts, asked: Mapping[str, Any], *, is_local: bool) -> MemoryPlan:
    """As `request_of`, planned. Raises PlannerError with what to say where it cannot be planned."""
    return estimate(request_of(facts, asked, is_local=is_local))


def compare_server(
    plan: MemoryPlan | None, facts: ServerFacts, asked: Mapping[str, Any]
) -> tuple[Compared, ...]:
    """Every figure that both know; without a plan, what was asked for alone."""
    found = _asked(facts, asked)
    if plan is not None:
        found += (*_model(plan, facts), *_cache(plan, facts), *_whole(plan, facts))
    return found


def _asked(facts: ServerFacts, asked: Mapping[str, Any]) -> tuple[Compared, ...]:
    """The context and the requests at once that a user wants of it."""
    rows = []
    context, count = asked.get("ctx"), asked.get("concurrency")
    if context is not None and facts.context is not None:
        rows.append(
            Compared(
                name="context",
                unit="tokens",
                planned=context,
                served=facts.context,
                how="the longest request that it takes",
                at_least=True,
            )
        )
    holds = at_once(facts, context or facts.context)
    if count is not None and holds is not None:
        rows.append(
            Compared(
                name="requests at once",
                unit="requests",
                planned=count,
                served=holds,
                how="of so many tokens, by its cache and its seats",
                at_least=True,
            )
        )
    return tuple(rows)


def at_once(facts: ServerFacts, context: int | None) -> float | None:
    """How many requests of so many tokens its cache and its seats hold; None where it tells neither."""
    known: list[float] = []
    if facts.seats is not None:
        known.append(facts.seats)
    if context and context == facts.context and facts.max_concurrency is not None:
        known.append(facts.max_concurrency)
    elif context and facts.kv_cache_tokens is not None:
        known.append(facts.kv_cache_tokens / context)
    return min(known, default=None)


def _model(plan: MemoryPlan, facts: ServerFacts) -> tuple[Compared, ...]:
    rows = []
    model = plan.model.to_dict()
    if facts.parameters is not None:
        rows.append(
            Compared(
                name="parameters",
                unit="",
                planned=model["parameters"],
                served=facts.parameters,
                how="elements of all its tensors",
            )
        )
    if facts.weights_bytes is not None:
        whole = facts.weights_whole
        rows.append(
            Compared(
                name="weights",
                unit="B",
                planned=model["weights_bytes"] if whole else plan.part("weights").n_bytes,
                served=facts.weights_bytes,
                how="all tensors of its model"
                if whole
                else "what the card's free memory fell by while loading",
            )
        )
    return tuple(rows)


def _cache(plan: MemoryPlan, facts: ServerFacts) -> tuple[Compared, ...]:
    """By the card where the cache is as large as the card allows, else by the bytes that it was given."""
    if facts.engine not in ("vllm", "sglang"):
        return ()
    if facts.kv_pool_bytes is not None and (facts.engine == "sglang" or facts.pinned):
        by_bytes = _by_bytes(plan, facts)
    else:
        by_bytes = ()
    return (*by_bytes, *_by_card(plan, facts))


def _by_bytes(plan: MemoryPlan, facts: ServerFacts) -> tuple[Compared, ...]:
    """Tokens that so many bytes hold: ⌊bytes / (bytes of a token · block)⌋ blocks, where every token costs the same."""
    pool, tokens = facts.kv_pool_bytes, facts.kv_cache_tokens
    each = plan.kv.bytes_per_token
    if pool is None or tokens is None or not each:
        return ()
    block = facts.block_size or 1
    uniform = plan.kv.bytes_per_request <= each * (plan.request["ctx"] + block)
    fixed = plan.kv.bytes_per_request >= each * plan.request["ctx"]
    return (
        Compared(
            name="KV tokens of its bytes",
            unit="tokens",
            planned=pool // (each * block) * block,
            served=tokens,
            how=f"{pool:,} B at {each:,} B a token"
            + ("" if uniform and fixed else "; shown: not every layer keeps every token"),
            judged=uniform and fixed,
        ),
    )


def _by_card(plan: MemoryPlan, facts: ServerFacts) -> tuple[Compared, ...]:
    if plan.capacity is None or plan.gpu is None:
        return ()
    judged = facts.pinned is None
    how = f"on {plan.gpu.name}" if judged else f"shown: its size was set by {facts.pinned}"
    rows = []
    if facts.num_blocks is not None and plan.capacity.num_blocks is not None:
        rows.append(("KV blocks", "blocks", float(plan.capacity.num_blocks), float(facts.num_blocks)))
    if facts.kv_cache_tokens is not None:
        rows.append(
            ("KV tokens", "tokens", float(plan.capacity.kv_cache_tokens), float(facts.kv_cache_tokens))
        )
    if facts.max_concurrency is not None:
        rows.append(
            (
                "requests of the whole context",
                "requests",
                plan.capacity.max_concurrency,
                facts.max_concurrency,
            )
        )
    return tuple(
        Compared(name=name, unit=unit, planned=ours, served=theirs, how=how, judged=judged)
        for name, unit, ours, theirs in rows
    )


def _whole(plan: MemoryPlan, facts: ServerFacts) -> tuple[Compared, ...]:
    """Ollama tells one sum: all buffers on the GPUs, without the driver's context."""
    if facts.vram_bytes is None:
        return ()
    planned = sum(part.n_bytes for part in plan.parts if part.name != "runtime")
    cards = plan.request["tp"] * plan.request["pp"]
    judged = facts.pinned is None and cards == 1
    return (
        Compared(
            name="GPU memory",
            unit="B",
            planned=planned,
            served=facts.vram_bytes,
            how="weights, cache and compute buffers"
            if judged
            else f"shown: {facts.pinned or 'it is the sum of several cards'}",
            judged=judged,
        ),
    )
