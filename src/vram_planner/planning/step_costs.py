"""What the steps of a simulated server take: the speed model's own times, and the cache's own needs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING

from vram_planner.engines.register import engine
from vram_planner.engines.versions import parse_version
from vram_planner.engines.vllm_rules import release_of
from vram_planner.errors import RequestError
from vram_planner.planning.batching_parts import Outlook, Room, Rules
from vram_planner.planning.performance import Assumptions
from vram_planner.planning.performance_constants import graph_tokens, load
from vram_planner.planning.performance_model import Step, decode_step, prefill_step
from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vram_planner.planning.performance import Served
    from vram_planner.planning.performance_model import Card, Constants, Load
    from vram_planner.planning.performance_work import Work

_BATCHING = {
    # Decoding stops while SGLang fills prompts (Scheduler.get_next_batch_to_run, managers/scheduler.py), unless it is
    # started with --enable-mixed-chunk. TensorRT-LLM's default policy, GUARANTEED_NO_EVICT, starts a request only with
    # room for all that it may give (CapacitySchedulerPolicy, tensorrt_llm/llmapi/llm_args.py;
    # GuaranteedNoEvictScheduler, cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp). llama-server's slots are divided up.
    "vllm": Rules(seats=0, budget=0),
    "sglang": Rules(seats=0, budget=0, mixes=False, outlook=Outlook()),
    "tensorrt-llm": Rules(seats=0, budget=0, reserves=True),
    "llama.cpp": Rules(seats=0, budget=0),
}
# vLLM's V0 engine fills prompts first and whole, while decoding waits, and leaves a hundredth of the blocks free
# (Scheduler._schedule_default in vllm/core/scheduler.py, SelfAttnBlockSpaceManager in core/block_manager.py, v0.6.5);
# where it takes prompts in chunks, beside decoding.
_V0_WATERMARK = 0.01
# A whole prompt must fit before its first chunk starts: scheduler_reserve_full_isl, on from its merge
# (https://github.com/vllm-project/vllm/pull/37307, March 2026) as of v0.19.1; 0.14.1 has it not.
_WHOLE_FROM = (0, 19, 0)
_BLOCKS = ("block_size", "tokens_per_block", "page_size")
_POINTS_A_DOUBLING = 4
_MOST_BLOCKS = 1 << 14
# Half of a step until the one that runs ends, and the one with the prompt itself: what the events already have.
_WAITED = {True: 1.5, False: 0.5}


@dataclass(slots=True, kw_only=True, eq=False)
class ServedCosts:
    """
    Steps of a served model, as planning/performance_model.py has them.

    decode         D(B, L), as decode_step, over `stages` with B/stages sequences each, and the streaming of B tokens
    prompts alone  Σ compute + link of the chunks, memory and fixed costs of the largest once
    both           D(B, L) + m · (the same) / stages, m the constant `mixing`
    `slower` scales all of it: the far end of the band. `replicas` share the traffic; these are the costs of one.
    `eager`: decoding runs without graphs; so it does at contexts beyond `graphs_to`, where that is not None.

    A decode step adds B times what its context costs to what it costs at none, so the two are kept: D(B, 0) by B, and
    D(1, L) − D(1, 0) by L in whole tokens.
    """

    work: Work
    card: Card
    fitted: Constants
    load: Load
    mixes: bool
    replicas: int = 1
    slower: float = 1.0
    eager: bool = False
    graphs_to: int | None = None
    _by_batch: dict[float, Step] = field(default_factory=dict)
    _by_context: dict[int, tuple[float, float]] = field(default_factory=dict)

    def step(self, batch: int, context: float, chunks: Sequence[tuple[int, int]]) -> Step:
        """Its parts in seconds."""
        stages = self.work.pp if self.load.pipelined else 1
        memory = compute = fixed = link = 0.0
        if batch:
            memory, compute, fixed, link = self._decode(max(1.0, batch / stages), context)
        if chunks:
            share = self.fitted.mixing / stages if batch else 1.0
            steps = [
                prefill_step(self.work, self.card, self.fitted, start=start, end=end) for start, end in chunks
            ]
            memory += share * max([step.memory_s for step in steps])
            compute += share * sum([step.compute_s for step in steps])
            fixed += share * max([step.fixed_s for step in steps])
            link += share * sum([step.link_s for step in steps])
        slower = self.slower
        return Step(memory * slower, compute * slower, fixed * slower, link * slower)

    def _decode(self, batch: float, context: float) -> tuple[float, float, float, float]:
        if self.eager or (self.graphs_to is not None and context > self.graphs_to):
            step = decode_step(self.work, self.card, self.fitted, batch=batch, context=context, eager=True)
            return self._sent(batch, *step)
        none = self._by_batch.get(batch)
        if none is None:
            none = decode_step(self.work, self.card, self.fitted, batch=batch, context=0)
            self._by_batch[batch] = none
        tokens = round(context)
        more = self._by_context.get(tokens)
        if more is None:
            far = decode_step(self.work, self.card, self.fitted, batch=1, context=tokens)
            near = decode_step(self.work, self.card, self.fitted, batch=1, context=0)
            more = self._by_context[tokens] = (far.memory_s - near.memory_s, far.compute_s - near.compute_s)
        memory, compute, fixed, link = none
        return self._sent(batch, memory + batch * more[0], compute + batch * more[1], fixed, link)

    def _sent(
        self, batch: float, memory: float, compute: float, fixed: float, link: float
    ) -> tuple[float, float, float, float]:
        """The same with its tokens sent: a client in the engine's own process hides behind the card."""
        if self.load.embedded:
            sent = max(0.0, batch * self.fitted.near_stream_s - memory - compute - link)
        else:
            sent = batch * self.fitted.stream_s
        return memory, compute, fixed + sent, link

    def late_s(self, batch: int, context: float) -> float:
        """
        What passes beside the steps until a client has its token.

        The constant of a request, and of the steps that its first token waits for (`first_steps`) those that the
        events do not have.
        """
        late = self.fitted.first_s
        waited = self.fitted.first_steps * (self.fitted.near_share if self.load.embedded else 1.0)
        more = max(0.0, waited - _WAITED[self.mixes])
        if batch and more:
            late += more * self.step(batch, context, ()).total_s / self.slower
        return late * self.slower


def costs_of(served: Served, *, slower: float = 1.0, assumed: Assumptions | None = None) -> ServedCosts:
    """The step times of a plan on its card; RequestError where they are not known."""
    assumed = assumed or Assumptions()
    rates = served.rates(assumed.kernels)
    if rates is None:
        raise RequestError(
            f"the speed of {served.gpu.name} is not known", hint="a card whose bandwidth and peak are known"
        )
    card, fitted = rates
    return ServedCosts(
        work=served.work(),
        card=card,
        fitted=fitted,
        load=served.load(assumed),
        mixes=_rules(served).mixes,
        replicas=served.ask.layout.dp,
        slower=slower,
        eager=served.ask.options.enforce_eager,
        graphs_to=graph_tokens(load(served.engine), served.ask.options.version),
    )


def rules_of(served: Served, traffic: Load, limit: int = 0) -> Rules:
    """
    How the engine batches, where clients ask for `limit` tokens at most (0: just what comes out).

    RequestError for an engine that does not take requests into a running batch.
    """
    slots = served.memory.settings.get("slots")
    seats = slots if served.engine == "llama.cpp" and isinstance(slots, int) else int(traffic.most)
    return _rules(served)._replace(
        seats=seats, budget=max(1, int(traffic.chunk)), limit=limit, longest=served.ask.workload.context
    )


def _rules(served: Served) -> Rules:
    if served.engine not in _BATCHING:
        raise RequestError(
            f"{served.engine} does not take new requests into a running batch: there is nothing to simulate",
            hint=f"--engine is one of {', '.join(_BATCHING)}",
        )
    rules = _BATCHING[served.engine]
    if served.engine != "vllm":
        return rules
    profile = release_of(served.ask).profile
    if profile.get("v0"):
        tokens = served.memory.settings.get("max_num_batched_tokens")
        chunks = isinstance(tokens, int) and tokens < served.ask.workload.context
        return rules._replace(mixes=chunks, whole_prompt=not chunks, watermark=_V0_WATERMARK)
    version = served.ask.options.version
    return rules._replace(whole_prompt=version is None or parse_version(version) >= _WHOLE_FROM)


def room_of(served: Served, name: str) -> Room:
    """
    The cache in bytes: what the engine itself says one request of so many tokens takes, block by block.

    The pool is what the engine says fits of full contexts: at_once · bytes of one. Asked at points four to a doubling,
    straight lines between them: exact for attention over all tokens, where need is a line.
    """
    ask, ctx = served.ask, served.ask.workload.context
    if served.engine == "llama.cpp":
        return Room(inf, ctx, (0.0, 1.0, 1.0), 0.0)
    found = next((served.memory.settings[key] for key in _BLOCKS if key in served.memory.settings), None)
    block = found if isinstance(found, int) and found > 0 else 16
    block = max(block, ceil_div(ctx, _MOST_BLOCKS))
    chosen = engine(name)

    def need(tokens: int) -> float:
        workload = replace(ask.workload, context=min(tokens, ctx), concurrency=1, prompt_tokens=1)
        return float(chosen.memory(replace(ask, workload=workload)).kv.bytes_per_request)

    last = ceil_div(ctx, block)
    points = sorted(
        {min(last, round(2 ** (step / _POINTS_A_DOUBLING))) for step in range(_POINTS_A_DOUBLING * 24)}
    )
    known = {point: need(point * block) for point in points}
    needs = [0.0]
    for left, right in zip([0, *points], points, strict=False):
        rise = (known[right] - known.get(left, known[points[0]])) / (right - left)
        needs += [known[right] - rise * (right - at) for at in range(left + 1, right + 1)]
    pool = served.capacity.max_concurrency * known[last]
    rise = max(after - before for before, after in pairwise(needs))
    return Room(pool, block, (*needs, needs[-1]), rise)
