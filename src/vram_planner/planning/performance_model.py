"""Times of a served model from its work, a card and an engine's constants: pure arithmetic, seconds and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from vram_planner.engines.memo import once
from vram_planner.planning.performance_parts import (
    expert_products,
    fixed_s,
    flops_of,
    launches_s,
    link_s,
    sticks_out,
    weights_s,
)
from vram_planner.planning.performance_pipeline import in_sequence
from vram_planner.planning.performance_queues import in_flight, outrun, tokens_per_step, waiting_s

if TYPE_CHECKING:
    from vram_planner.planning.performance_work import Work

_FULL = 0.95  # of the room: arrivals that fill it outrun the server
_ROUNDS = 40  # of the search for the batch that an arrival rate keeps in flight


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Constants:
    """
    What was fitted to measurements, for one engine and version, generation of cards and class of kernels.

    Shares are of the card's nameplate: `bandwidth_share` of its bandwidth, `compute_share` of the peak of the
    dtype that the kernel multiplies in, `decode_share` of that where few tokens stand in a step, `cache_share`
    of the bandwidth where the cache is read, `attention_share` of the 16-bit peak in attention, `expert_share`
    of what experts reach beside dense matrices, `expert_compute` of the operations likewise, `link_share` of the link. Seconds: `layer_s` a layer and step,
    `expert_layer_s` more for a layer of experts, `eager_layer_s` what the host takes to launch a layer without a
    graph, behind which the card's own work hides, `step_s` a step, `sequence_s` a sequence and step, `stream_s`
    the same for sending its token to a client, `hop_s` an all-reduce, `first_s` a request until its first
    token beside the prefill, `first_steps` steps of the others that pass until then, `near_share` of them for
    a client in the engine's own process, and `near_stream_s` what such a client takes for a sequence and step while the
    card works. `queue` weighs the wait
    behind other prefills, `mixing` what a prefill costs those that decode. `room_share` is how much of the
    cache's room is in use on average when requests queue for it. Where scores are written out: `score_s` seconds for
    one of a decoded token, `score_bytes` moved for one of a prompt. Routers favour some experts: n tokens touch as many
    as n^`expert_spread` that choose evenly. `end_bytes` are moved to convert an element on its way in or out of a matrix.
    """

    bandwidth_share: float = 0.8
    cache_share: float = 0.8
    compute_share: float = 0.6
    decode_share: float = 0.6
    attention_share: float = 0.3
    expert_share: float = 0.8
    expert_compute: float = 0.7
    link_share: float = 0.5
    layer_s: float = 50e-6
    expert_layer_s: float = 20e-6
    eager_layer_s: float = 0.0
    step_s: float = 1e-3
    sequence_s: float = 10e-6
    stream_s: float = 20e-6
    hop_s: float = 10e-6
    first_s: float = 10e-3
    first_steps: float = 1.0
    near_share: float = 0.4
    near_stream_s: float = 0.2e-3
    queue: float = 0.7
    mixing: float = 1.0
    room_share: float = 0.9
    score_s: float = 0.0
    score_bytes: float = 0.0
    expert_spread: float = 1.0
    end_bytes: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Card:
    """
    What counts of a card here, per second: bytes of its memory, operations of the kernels' dtype and in 16 bits.

    `link_bytes_per_s` is what a rank can send to the others, one direction; `host_bytes_per_s` what reaches
    it from the host's memory, `host_read_bytes_per_s` what the host's own cores read there. `crossings` are the
    pipeline stages that begin on another server, each after `crossing_hop_s` and at `crossing_bytes_per_s` a rank.
    """

    bandwidth: float
    flops: float
    flops_16: float
    link_bytes_per_s: float = 0.0
    host_bytes_per_s: float = 0.0
    host_read_bytes_per_s: float = 0.0
    crossings: int = 0
    crossing_hop_s: float = 0.0
    crossing_bytes_per_s: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Load:
    """
    Requests of `prompt` + `output` tokens: so many at once, or (`rate`) so many a second.

    `room` is how many of them the cache holds at once, `most` the engine's own bound. `chunk` is the most
    prompt tokens of one step. `pipelined` says that pipeline stages work on different requests, `queued` how
    many chunks of one prompt a stage's queue of launches takes (performance_pipeline.py). `prefix_hit` is the share of a prompt that lies in the cache already.
    Speculation: `draft` tokens guessed a step, each accepted with `acceptance`, at `draft_cost` of a step.
    `streamed` says that tokens go to clients one by one; `static` that a batch starts and ends together; `eager`
    that decoding runs without graphs, `embedded` that no server stands between client and engine. A new request is held for `held`
    steps on average before the engine looks at it. `groups` of ranks carry such a load each, and yield their throughput together. `requests` is how many arrive in all: where an arrival rate outruns the
    server the wait grows until the last of them.
    """

    prompt: float
    output: float
    concurrency: float
    room: float
    most: float
    chunk: float = 2048
    rate: float | None = None
    pipelined: bool = True
    queued: float = 0.0
    prefix_hit: float = 0.0
    draft: int = 0
    acceptance: float = 0.0
    draft_cost: float = 0.1
    streamed: bool = True
    static: bool = False
    eager: bool = False
    embedded: bool = False
    held: float = 0.0
    groups: float = 1
    requests: float | None = None


class Step(NamedTuple):
    """One forward pass by what it waits for, in seconds."""

    memory_s: float
    compute_s: float
    fixed_s: float
    link_s: float

    @property
    def total_s(self) -> float:
        """All of it: memory and compute add."""
        return sum(self)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Times:
    """
    What a request sees, and what the server gives.

    `prefill_s` is the bare forward over the prompt, `ttft_s` what a request waits for its first token,
    `batch` how many decode at once, `waits` whether requests queue for room or for a place in the batch.
    """

    ttft_s: float
    tpot_s: float
    output_tokens_per_s: float
    per_user_tokens_per_s: float
    prefill_s: float
    batch: float
    waits: bool
    step: Step


def decode_step(
    work: Work,
    card: Card,
    fitted: Constants,
    *,
    batch: float,
    context: float,
    draft: int = 0,
    eager: bool = False,
) -> Step:
    """
    One step that adds a token (or checks `draft` more) to each of `batch` sequences.

    memory   (W(n) / e + B · KV(L) / e_kv) / BW + H(n) / BW_host
    compute  n · 2N / (peak · mfu_d) + n · A(L) / (peak_16 · mfu_a)
    fixed    c_step + c · layers + c_seq · B
    link     all-reduces · (hop + 2 (tp − 1)/tp · n · h · b / link)

    Without graphs (`eager`) the host launches every kernel, and the card's work hides behind that or the
    other way round: the fixed part is then at least layers · c_eager − (memory + compute + link).

    B  sequences, n = B · (draft + 1) tokens    W(n)  weights read, of experts those touched
    KV(L)  cache read by a sequence at context L    A(L)  attention    H  weights on the host, of experts those touched
    """
    tokens = batch * (draft + 1)
    memory = weights_s(work, card, fitted, tokens)
    memory += batch * work.cache_bytes(context) / (card.bandwidth * fitted.cache_share)
    memory += batch * work.score_heads * context * fitted.score_s
    peak = card.flops * fitted.compute_share * fitted.decode_share
    compute = tokens * (flops_of(work, fitted) + work.head_flops) / peak
    compute += tokens * work.score_flops(context) / (card.flops_16 * fitted.attention_share)
    fixed = fixed_s(work, fitted) + batch * fitted.sequence_s
    link = link_s(work, card, fitted, tokens)
    if eager:
        fixed = max(fixed, launches_s(work, fitted) - memory - compute - link)
    return Step(memory, compute, fixed, link)


def band_class(work: Work, card: Card, fitted: Constants, kind: str, *, waits: bool = False) -> str:
    """
    Whose errors a figure has: 'waiting' where requests queue, 'host' where a dense model is so small that fixed costs take
    more than half of a step of one request.

    What launches and scheduling cost is the host processor's affair, which a plan does not know.
    """
    if waits:
        return "waiting"
    alone = decode_step(work, card, fitted, batch=1, context=1)
    return "host" if kind == "dense" and alone.fixed_s > alone.total_s / 2 else kind


def prefill_step(work: Work, card: Card, fitted: Constants, *, start: float, end: float) -> Step:
    """
    One step over the tokens `start` to `end` of a prompt.

    As `decode_step`, with compute n · 2N / (peak · mfu) + Σ A(i) / (peak_16 · mfu_a), n = end − start. Large
    products read their weights behind the arithmetic, so of memory only what sticks out of it counts:
    (memory⁴ + compute⁴)^¼ − compute. Kernels that only move bytes (scores written out, weights unpacked) come on top:
    (U + n · end · heads · b) / (BW · e). Prompts run without graphs, so the host's launches bound them from below.
    """
    tokens = end - start
    memory = weights_s(work, card, fitted, tokens)
    memory += work.cache_bytes(start) / (card.bandwidth * fitted.cache_share)
    compute = (tokens * flops_of(work, fitted) + work.head_flops) / (card.flops * fitted.compute_share)
    compute += work.prompt_score_flops(start, end) / (card.flops_16 * fitted.attention_share)
    beyond = sticks_out(memory, compute)
    if work.expert_tile:
        own, alone, padding = expert_products(work, card, fitted, tokens)
        beyond = sticks_out(memory - own, compute - alone) + sticks_out(own, alone + padding)
        compute += padding
    moved = work.unpacked_bytes + tokens * end * work.score_heads * fitted.score_bytes
    moved += tokens * work.ends * fitted.end_bytes
    beyond += moved / (card.bandwidth * fitted.bandwidth_share)
    link = link_s(work, card, fitted, tokens)
    fixed = max(fixed_s(work, fitted), launches_s(work, fitted) - beyond - compute - link)
    return Step(beyond, compute, fixed, link)


def prefill(work: Work, card: Card, fitted: Constants, load: Load) -> Step:
    """The forward passes over what is new of a prompt, chunk by chunk, with pipeline stages as far at once as launches reach."""
    return _passes(work, card, fitted, (load.prompt, load.prefix_hit, load.chunk, load.queued))


@once
def _passes(work: Work, card: Card, fitted: Constants, prompts: tuple[float, float, float, float]) -> Step:
    """What `prefill` says of prompts, the share of them that is found, their chunks, and how many of them are queued."""
    prompt, prefix_hit, chunk, queued = prompts
    start = prompt * prefix_hit
    chunks = max(1, ceil((prompt - start) / chunk))
    width = (prompt - start) / chunks
    # The cost is close to a parabola over the chunks: first, middle and last tell the mean (Simpson).
    picks = [(0.0, 1.0)] if chunks == 1 else [(0.0, 1 / 6), ((chunks - 1) / 2, 4 / 6), (chunks - 1.0, 1 / 6)]
    scale = chunks * in_sequence(chunks, work.pp, queued)
    sums = [0.0, 0.0, 0.0, 0.0]
    for at, share in picks:
        step = prefill_step(work, card, fitted, start=start + at * width, end=start + (at + 1) * width)
        for index, part in enumerate(step):
            sums[index] += part * share * scale
    return Step(*sums)


def times(work: Work, card: Card, fitted: Constants, load: Load) -> Times:
    """The answer for a load: at a concurrency, or at the one that an arrival rate settles at."""
    if load.rate is None:
        return _at(work, card, fitted, load, load.concurrency)
    low, high = 1.0, max(2.0, min(load.room, load.most))
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        found = _at(work, card, fitted, load, middle)
        if in_flight(load, found.ttft_s + load.output * found.tpot_s) > middle:
            low = middle
        else:
            high = middle
    found = _at(work, card, fitted, load, (low + high) / 2)
    return outrun(found, load) if found.batch >= _FULL * min(load.room, load.most) else found


def _at(work: Work, card: Card, fitted: Constants, load: Load, concurrency: float) -> Times:
    """
    Steady state with `concurrency` requests kept in flight.

    B = min(concurrency, room, most). While a request decodes its O tokens each of the others is prefilled
    once; what it did not wait for before its own first token it waits for between its tokens:
    TTFT = first + prefill + wait, TPOT = step(B) + ((B − 1) · S − wait) / O, S what a prefill costs the others.
    What does not fit waits: by Little's law a request stays concurrency / rate.
    """
    room = max(1.0, load.room * (fitted.room_share if concurrency > load.room else 1.0))
    batch = max(1.0, min(concurrency, room, load.most))
    output = max(1.0, load.output)
    alone = prefill(work, card, fitted, load)
    stages = work.pp if load.pipelined else 1
    step = _decode(work, card, fitted, load, batch / stages)
    decoding = (
        step.total_s * (1 + load.draft_cost * load.draft) / tokens_per_step(load.draft, load.acceptance)
    )
    # Prompts that start in the same step share one reading of the weights.
    together = max(1.0, min(load.chunk / load.prompt, batch / output))
    behind = (
        fitted.mixing
        * (alone.compute_s + alone.link_s + (alone.memory_s + alone.fixed_s) / together)
        / stages
    )
    wait = batch - 1 and waiting_s(behind, output * decoding, batch, fitted.queue)
    if load.static:
        wait, ahead = (batch - 1) * behind, 0.0
    else:
        ahead = max(0.0, (batch - 1) * behind - wait)
    tpot = decoding + ahead / output
    steps = fitted.first_steps * (fitted.near_share if load.embedded else 1.0) + load.held
    ttft = fitted.first_s + alone.total_s + wait + steps * decoding * (batch > 1)
    rate = batch / (ttft + (output - 1) * tpot)
    waits = concurrency > batch
    if waits:
        ttft += (concurrency - batch) / rate
    return Times(
        ttft_s=ttft,
        tpot_s=tpot,
        output_tokens_per_s=rate * output * load.groups,
        per_user_tokens_per_s=output / (ttft + (output - 1) * tpot),
        prefill_s=alone.total_s,
        batch=batch,
        waits=waits,
        step=step,
    )


def _decode(work: Work, card: Card, fitted: Constants, load: Load, batch: float) -> Step:
    step = decode_step(
        work,
        card,
        fitted,
        batch=max(1.0, batch),
        context=load.prompt + load.output / 2,
        draft=load.draft,
        eager=load.eager,
    )
    if not load.streamed:
        return step
    sent = batch * fitted.stream_s
    if load.embedded:
        sent = max(0.0, batch * fitted.near_stream_s - step.memory_s - step.compute_s - step.link_s)
    return step._replace(fixed_s=step.fixed_s + sent)
