"""
A bounded load on a running server: 1, 2, 4 … N requests at once through its OpenAI API, streamed, each timed.

TTFT is from sending to the first streamed token, TPOT the time from the first to the last token by the tokens between
them. A thread beside the load asks the server how many requests run and wait. It stops by itself where the queue grows,
the cache is full, an asked latency is broken, or requests fail.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vram_planner.errors import PlannerError, RequestError, ServerError
from vram_planner.validate.ramp import Ended, Step
from vram_planner.validate.server_facts import Gauges, entries, inner, whole
from vram_planner.validate.server_prompt import Prompts
from vram_planner.validate.told import share_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vram_planner.validate.server_facts import Reader
    from vram_planner.validate.server_http import Client

MOST_AT_ONCE = 512
_PER_WORKER = 3
_SAMPLE_S = 0.1
_FULL = 0.99
_QUEUED_SHARE = 0.5
_PROBE_WORDS = 64
_PATH = "/v1/completions"


@dataclass(frozen=True, slots=True)
class LoadAsk:
    """What to send: up to `most` at once, so many tokens each, and the latencies that 90 % of requests must keep."""

    most: int
    prompt_tokens: int
    output_tokens: int
    step_s: float = 60.0
    ttft_s: float | None = None
    tpot_s: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges: nothing here is unbounded."""
        if not 1 <= self.most <= MOST_AT_ONCE:
            raise RequestError(f"--load {self.most:,} is out of range", hint=f"between 1 and {MOST_AT_ONCE}")
        if self.prompt_tokens < 1 or self.output_tokens < 1 or not 0 < self.step_s <= 3600:  # noqa: PLR2004  an hour
            raise RequestError(
                "a load has at least one token of prompt and of output, and at most an hour a step",
                hint="as in --prompt-tokens 512 --output-tokens 64 --time-limit 60",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One request: its latencies in seconds and its tokens as the server counted them."""

    ttft_s: float
    tpot_s: float | None
    prompt_tokens: int | None
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadStep:
    """
    So many at once: percentiles (50, 90, 99) of the latencies, tokens a second, and what the server told meanwhile.

    `queued_share` is the share of the looks at it that saw requests wait; None where it does not tell.
    """

    batch: int
    ended: Ended
    done: int
    seconds: float
    ttft_s: tuple[float, float, float] | None = None
    tpot_s: tuple[float, float, float] | None = None
    prompt_tokens: float | None = None
    tokens_per_s: float | None = None
    running_most: float | None = None
    waiting_most: float | None = None
    queued_share: float | None = None
    usage_most: float | None = None
    preempted: float | None = None
    broke: tuple[str, ...] = ()
    note: str = ""

    def as_step(self) -> Step:
        """For the recommendation: the latencies that 90 % keep."""
        return Step(
            batch=self.batch,
            ended=self.ended,
            ttft_s=self.ttft_s[1] if self.ttft_s else None,
            tpot_s=self.tpot_s[1] if self.tpot_s else None,
            note=self.note,
            counted_tokens_per_s=self.tokens_per_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Every step in the order it was run; `complete` where none was left out."""

    ask: LoadAsk
    steps: tuple[LoadStep, ...]
    complete: bool
    stopped: str

    def first(self, broke: str) -> int | None:
        """The concurrency at which that happened first: queue, cache, ttft, tpot, or failed."""
        return next((step.batch for step in self.steps if broke in step.broke), None)

    @property
    def largest(self) -> int:
        """The most at once with no queue, no full cache, and the latencies kept."""
        return max(
            (step.batch for step in self.steps if step.ended is Ended.RAN and not step.broke), default=0
        )

    @property
    def kept_limits(self) -> bool:
        """Whether the asked latencies held at every step that was run."""
        return self.first("ttft") is None and self.first("tpot") is None


def drive(
    client: Client, reader: Reader, model: str, ask: LoadAsk, tell: Callable[[str], None] = lambda _: None
) -> Load:
    """
    Run the steps. Raises ServerError where not even one request is answered; Ctrl-C cuts all that is open.

    The first request is not counted: it warms the server up, and its count of tokens sizes the prompts.
    """
    sender = _Sender(client, reader, model, ask)
    steps: list[LoadStep] = []
    try:
        tell("one request to warm up")
        sender.probe()
        for batch in _batches(ask.most):
            tell(f"{batch} at once")
            steps.append(_run_step(sender, batch, share_of(tell)))
            if steps[-1].broke:
                break
    except BaseException:
        client.stop()
        raise
    last = steps[-1]
    if not any(step.done for step in steps):
        raise ServerError(
            f"no request was answered: {last.note or last.ended.value}", hint="see the server's own log"
        )
    return Load(
        ask=ask,
        steps=tuple(steps),
        complete=last.batch == ask.most,
        stopped=_why(last) if last.broke else "the most that was asked for",
    )


class _Sender:
    """Makes and times requests; its prompts are numbered through."""

    def __init__(self, client: Client, reader: Reader, model: str, ask: LoadAsk) -> None:
        self.client, self.reader, self.model, self.ask = client, reader, model, ask
        self._prompts = Prompts.fresh()
        self._number = 0
        self._lock = threading.Lock()

    def probe(self) -> None:
        """One request of known words."""
        found = self._send(
            self._prompts.words(0, _PROBE_WORDS), 1, max(self.ask.step_s, self.client.limit_s), []
        )
        if found.prompt_tokens is not None:
            self._prompts = replace(self._prompts, tokens_per_word=found.prompt_tokens / _PROBE_WORDS)

    def send(self, limit_s: float, cut: list[int]) -> Timed:
        """The next request; `cut` gets the tokens that came where it is cut short."""
        with self._lock:
            self._number += 1
            number = self._number
        prompt = self._prompts.of_tokens(number, self.ask.prompt_tokens)
        return self._send(prompt, self.ask.output_tokens, limit_s, cut)

    def _send(self, prompt: str, output_tokens: int, limit_s: float, cut: list[int]) -> Timed:
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": output_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.reader.ignores_eos:
            body["ignore_eos"] = True
        started = time.perf_counter()
        first = last = None
        chunks = 0
        usage: Mapping[str, Any] = {}
        try:
            for moment, event in self.client.stream(_PATH, body, limit_s):
                usage = inner(event, "usage") or usage
                if entries(event.get("choices")):
                    first, last = first or moment, moment
                    chunks += 1
        except ServerError:
            cut.append(chunks)
            raise
        if first is None or last is None:
            raise ServerError("a request was answered with no token", hint="see the server's own log")
        tokens = whole(usage.get("completion_tokens")) or chunks
        return Timed(
            ttft_s=first - started,
            tpot_s=(last - first) / (tokens - 1) if tokens > 1 else None,
            prompt_tokens=whole(usage.get("prompt_tokens")),
            output_tokens=tokens,
        )


class _Tally:
    """What the threads of one step found."""

    def __init__(self) -> None:
        self.timed: list[Timed] = []
        self.cut: list[int] = []
        self.looks: list[Gauges] = []
        self.failures: list[str] = []
        self.over = threading.Event()
        self.quiet = threading.Event()


def _run_step(sender: _Sender, batch: int, share: Callable[[float], None]) -> LoadStep:
    tally = _Tally()
    started = time.perf_counter()
    deadline = started + sender.ask.step_s
    workers = [
        threading.Thread(target=_work, args=(sender, tally, deadline), daemon=True) for _ in range(batch)
    ]
    watcher = threading.Thread(target=_watch, args=(sender, tally), daemon=True)
    watcher.start()
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            while worker.is_alive():
                worker.join(_SAMPLE_S)
                share(len(tally.timed) / (batch * _PER_WORKER))
    finally:
        tally.over.set()
    seconds = time.perf_counter() - started
    watcher.join()
    return _judged(_summed(tally, batch, seconds), sender.ask)


def _work(sender: _Sender, tally: _Tally, deadline: float) -> None:
    """Send one request after the other; what the deadline cuts is no failure of the server's."""
    for _ in range(_PER_WORKER):
        left = deadline - time.perf_counter()
        if left <= 0 or tally.over.is_set():
            return
        try:
            tally.timed.append(sender.send(left, tally.cut))
        except PlannerError as error:
            if time.perf_counter() < deadline:
                tally.failures.append(str(error))
                tally.over.set()
            return


def _watch(sender: _Sender, tally: _Tally) -> None:
    while not tally.over.wait(_SAMPLE_S):
        try:
            tally.looks.append(sender.reader.gauges(sender.client))
        except PlannerError:
            # A server too busy to tell is seen by its latencies.
            tally.quiet.set()


def _summed(tally: _Tally, batch: int, seconds: float) -> LoadStep:
    timed = tuple(tally.timed)
    ended = Ended.RAN if timed else Ended.HUNG
    if tally.failures:
        ended = Ended.FAILED
    waiting = [look.waiting for look in tally.looks if look.waiting is not None]
    thrown = [look.preemptions for look in tally.looks if look.preemptions is not None]
    prompts = [each.prompt_tokens for each in timed if each.prompt_tokens is not None]
    return LoadStep(
        batch=batch,
        ended=ended,
        done=len(timed),
        seconds=seconds,
        ttft_s=_percentiles([each.ttft_s for each in timed]),
        tpot_s=_percentiles([each.tpot_s for each in timed if each.tpot_s is not None]),
        prompt_tokens=sum(prompts) / len(prompts) if prompts else None,
        tokens_per_s=(sum(each.output_tokens for each in timed) + sum(tally.cut)) / seconds
        if timed
        else None,
        running_most=_most(look.running for look in tally.looks),
        waiting_most=max(waiting, default=None),
        queued_share=sum(each > 0 for each in waiting) / len(waiting) if waiting else None,
        usage_most=_most(look.usage for look in tally.looks),
        preempted=thrown[-1] - thrown[0] if thrown else None,
        note=tally.failures[0] if tally.failures else _note(tally),
    )


def _note(tally: _Tally) -> str:
    notes = []
    if tally.cut:
        notes.append(f"the time limit cut {len(tally.cut)} requests short")
    if tally.quiet.is_set():
        notes.append("it was too busy to tell how busy it is")
    return "; ".join(notes)


def _judged(step: LoadStep, ask: LoadAsk) -> LoadStep:
    """The same step with what broke at it."""
    broke = [
        name
        for name, found in (
            ("failed", step.ended is not Ended.RAN),
            ("queue", (step.queued_share or 0.0) >= _QUEUED_SHARE),
            ("cache", (step.usage_most or 0.0) >= _FULL or bool(step.preempted)),
            ("ttft", _over(step.ttft_s, ask.ttft_s)),
            ("tpot", _over(step.tpot_s, ask.tpot_s)),
        )
        if found
    ]
    return replace(step, broke=tuple(broke))


def _over(found: tuple[float, float, float] | None, limit: float | None) -> bool:
    return found is not None and limit is not None and found[1] > limit


def _why(step: LoadStep) -> str:
    words: Mapping[str, str] = {
        "failed": f"{step.ended.value}: {step.note}" if step.note else step.ended.value,
        "queue": "the queue grows",
        "cache": "the KV cache is full",
        "ttft": "TTFT is over the limit",
        "tpot": "TPOT is over the limit",
    }
    return f"at {step.batch}: " + ", ".join(words[name] for name in step.broke)


def _batches(most: int) -> list[int]:
    found = [1]
    while found[-1] < most:
        found.append(min(2 * found[-1], most))
    return found


def _percentiles(values: list[float]) -> tuple[float, float, float] | None:
    """The 50th, 90th and 99th by nearest rank."""
    if not values:
        return None
    ordered = sorted(values)
    half, most, nearly_all = (ordered[-(-len(ordered) * share // 100) - 1] for share in (50, 90, 99))
    return half, most, nearly_all


def _most(values: Any) -> float | None:
    return max((value for value in values if value is not None), default=None)
