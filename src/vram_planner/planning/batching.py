"""Continuous batching as a discrete-event simulation: admission, chunked prefill, decoding, preemption. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import ceil, inf
from typing import TYPE_CHECKING

from vram_planner.planning.batching_parts import Request, Tally
from vram_planner.planning.performance_model import Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vram_planner.planning.arrivals import Arrivals
    from vram_planner.planning.batching_parts import Costs, Outlook, Room, Rules

_NEARLY_FULL = 0.9
_NOTHING = Step(0.0, 0.0, 0.0, 0.0)


@dataclass(slots=True, kw_only=True, eq=False)
class Server:
    """
    One replica under traffic. Events are steps; stretches in which nothing but decoding happens are one event.

    Scheduling follows vLLM V1, `Scheduler.schedule` in vllm/v1/core/sched/scheduler.py at v0.11 and later: running
    requests first, one token each or the next chunk of their prompt; if the cache is full, the latest to start is put
    out and computed anew from its beginning when it starts again, before those that wait; then, if none was put out,
    waiting requests in order while seats, tokens of the budget and room are left. Where prompts are not filled beside
    decoding they go first, and none is put out for them: `Scheduler._schedule_default` in vllm/core/scheduler.py of
    v0.7, and `Scheduler.get_next_batch_to_run` in SGLang's managers/scheduler.py, with its `Outlook`.
    """

    costs: Costs
    arrivals: Arrivals
    rules: Rules
    room: Room
    prefix_hit: float = 0.0
    now: float = 0.0
    waiting: deque[Request] = field(default_factory=deque)
    running: list[Request] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    watching: bool = True
    came: int = 0
    _no_seat: bool = False
    _no_room: bool = False
    _use: float = 0.0  # what the running ones take now
    _sure: bool = False  # whether `used` of a schedule is exact, not a bound
    _ratio: float = 0.0  # the outlook's share of what may still be given

    def __post_init__(self) -> None:
        """An idle server looks ahead most."""
        self._ratio = self.rules.outlook.first if self.rules.outlook else 0.0

    def run(self) -> Iterator[Request]:
        """Requests as they end, until no more come; the caller may stop before."""
        while True:
            self._let_in()
            if not self.running and not self.waiting:
                after = self.arrivals.next_at()
                if after == inf:
                    return
                self._pass(after, 0)
                self._ratio = self.rules.outlook.first if self.rules.outlook else 0.0
                continue
            chunks = self._schedule()
            yield from self._mixed(chunks) if chunks else self._stretch()

    def _let_in(self) -> None:
        while (at := self.arrivals.next_at()) <= self.now:
            prompt, output = self.arrivals.take()
            if not output:
                self.tally.refused += self.watching
                self.arrivals.finished(at)
                continue
            limit = self.rules.asked(prompt, output)
            self.waiting.append(Request(self.came, at, prompt, output, prompt, limit))
            self.came += 1
            if self.watching:
                self.tally.in_system_s += self.now - at

    def _held(self, request: Request, more: int = 0) -> float:
        tokens = request.prompt + request.limit if self.rules.reserves else request.held + more
        return self.room.need(tokens)

    def _used(self, more: int = 0) -> float:
        """What the running ones take if each that decodes gets `more` tokens."""
        needs, block = self.room.needs, self.room.block
        if self.rules.reserves:
            return sum([needs[-(-(r.prompt + r.limit) // block)] for r in self.running])
        return sum([needs[-(-(r.held + (more if r.held >= r.todo else 0)) // block)] for r in self.running])

    def _schedule(self) -> list[tuple[Request, int]]:
        """What of which prompt is filled in the next step; who cannot go on is put out."""
        self._no_seat = self._no_room = False
        mixes, self._sure = self.rules.mixes, True
        used = self._make_room() if mixes else self._use
        decoding = sum([r.held >= r.todo for r in self.running])
        budget = max(1, self.rules.budget - (decoding if mixes else 0))
        chunks: list[tuple[Request, int]] = []
        if decoding < len(self.running):
            budget, used = self._go_on(chunks, budget, used)
        if not self._no_room:
            self._admit(chunks, budget, used)
        if not (chunks or mixes):
            self._make_room()
        return chunks

    def _make_room(self) -> float:
        """Put out who has no room for a token more; what the others then take, or a bound of it."""
        used = self._use + len(self.running) * self.room.rise
        self._sure = used > _NEARLY_FULL * self.room.pool
        if self._sure:
            used = self._used(1)
        while used > self.room.pool and len(self.running) > 1:
            self._put_out(self._last())
            used = self._used(1)
        if self._no_room:
            self._use = self._used()
            if self.rules.outlook:
                self._ratio = self.rules.outlook.again(self.running)
        return used

    def _last(self) -> Request:
        """Who is put out next: the latest to start; where the engine looks ahead, who has given least."""
        if self.rules.outlook is None:
            return self.running.pop()
        found = min(reversed(self.running), key=lambda r: (r.given, -r.prompt))
        self.running.remove(found)
        return found

    def _go_on(self, chunks: list[tuple[Request, int]], budget: int, used: float) -> tuple[int, float]:
        """The next chunks of prompts that are half filled; the latest to start gives way where the cache is full."""
        at = 0
        while at < len(self.running) and budget > 0:
            request = self.running[at]
            at += 1
            if request.held >= request.todo:
                continue
            width = min(request.todo - request.held, budget)
            more = self._held(request, width) - self._held(request)
            while used + more > self.room.pool and len(self.running) > at:
                last = self.running.pop()
                used -= self._held(last, 1 if last.held >= last.todo else 0)
                self._put_out(last)
            if used + more > self.room.pool:
                self._put_out(self.running.pop())
                break
            used, budget = used + more, budget - width
            chunks.append((request, width))
        return budget, used

    def _admit(self, chunks: list[tuple[Request, int]], budget: int, used: float) -> None:
        """Start those that wait, in order, while places, tokens of the step and room are left."""
        rules, need = self.rules, self.room.need
        pool = self.room.pool * (1 - rules.watermark)
        if rules.outlook and self.waiting:
            used += self._kept(rules.outlook)
        while self.waiting and budget > 0:
            if len(self.running) >= rules.seats:
                self._no_seat = True
                return
            request = self.waiting[0]
            cached = min(int(request.prompt * self.prefix_hit), request.todo - 1)
            width = min(request.todo - cached, budget)
            whole = request.prompt + request.limit if rules.reserves else request.todo
            taken = need(whole if rules.reserves else cached + width)
            if rules.outlook:
                taken = need(request.todo + rules.outlook.left(request))
            asked = max(taken, need(whole)) if rules.whole_prompt else taken
            if used + asked > pool and not self._sure:
                # `used` was a bound: now exactly, with the chunks of this step.
                self._sure = True
                used = self._used(1) + sum(
                    [need(r.held + n) - need(r.held) for r, n in chunks if not rules.reserves]
                )
            if used + asked > pool and self.running:
                self._no_room = True
                return
            used, budget = used + taken, budget - width
            request.held = cached
            request.started = min(request.started, self.now)
            self.running.append(self.waiting.popleft())
            chunks.append((request, width))

    def _kept(self, outlook: Outlook) -> float:
        """Room kept for what the running ones may still give."""
        need, longest, ratio = self.room.need, self.rules.longest, self._ratio
        kept = 0.0
        for request in self.running:
            held = max(request.held, request.todo)
            ahead = held + int(ratio * outlook.left(request))
            kept += need(min(ahead, longest) if longest else ahead) - need(request.held)
        return kept

    def _put_out(self, request: Request) -> None:
        request.todo, request.held = request.prompt + request.given, 0
        request.put_out += 1
        self._no_room = True
        self.tally.put_out += self.watching
        if self.rules.outlook:
            self.waiting.append(request)
        else:
            self.waiting.appendleft(request)

    def _mixed(self, chunks: list[tuple[Request, int]]) -> list[Request]:
        """A step that fills prompts, with those that decode beside it or held up by it."""
        decoding = [r for r in self.running if r.held >= r.todo]
        count = len(decoding)
        context = sum([r.held for r in decoding]) / count if count else 0.0
        spans = [(r.held, r.held + width) for r, width in chunks]
        parts = self.costs.step(count, context, spans) if self.rules.mixes else self.costs.step(0, 0.0, spans)
        for request, width in chunks:
            request.held += width
        if self.rules.mixes:
            for request in decoding:
                request.held += 1
        self._pass(self.now + parts.total_s, 1, parts)
        ended = []
        for request, _ in chunks:
            if request.held >= request.todo:
                if request.given == 0:
                    request.first = self.now
                    request.late = self.costs.late_s(count, context)
                request.given += 1
                self.tally.tokens += self.watching
                if request.given >= request.output:
                    ended.append(request)
        if self.rules.mixes:
            ended += self._advance(decoding, 1)
        return self._end(ended)

    def _stretch(self) -> list[Request]:
        """Steps of decoding alone: until a request ends, one comes that can start, or the cache is full."""
        running = self.running
        count = len(running)
        steps = min([r.output - r.given for r in running])
        context = sum([r.held for r in running]) / count
        if not self.waiting and count < self.rules.seats:
            once = self.costs.step(count, context, ()).total_s
            gap = self.arrivals.next_at() - self.now
            steps = max(1, min(steps, ceil(gap / once))) if gap < steps * once else steps
        steps = self._with_room(steps)
        parts = self.costs.step(count, context + (steps - 1) / 2, ())
        before = self._use
        if self.rules.outlook:
            self._ratio = self.rules.outlook.after(self._ratio, steps)
        for request in running:
            request.held += steps
        self._pass(self.now + steps * parts.total_s, steps, parts, before)
        return self._end(self._advance(running, steps))

    def _with_room(self, steps: int) -> int:
        """The most of these steps for which the cache has room; at least one, for `_schedule` saw to that."""
        if steps == 1 or self.rules.reserves:
            return steps
        most = len(self.running) * (steps // self.room.block + 1) * self.room.rise
        if self._use + most <= self.room.pool or self._used(steps) <= self.room.pool:
            return steps
        low, high = 1, steps
        while high - low > 1:
            middle = (low + high) // 2
            if self._used(middle) <= self.room.pool:
                low = middle
            else:
                high = middle
        return low

    def _advance(self, decoding: list[Request], steps: int) -> list[Request]:
        ended = []
        for request in decoding:
            request.given += steps
            if request.given >= request.output:
                ended.append(request)
        if self.watching:
            self.tally.tokens += steps * len(decoding)
        return ended

    def _end(self, ended: list[Request]) -> list[Request]:
        for request in ended:
            request.ended = self.now
            self.arrivals.finished(self.now)
        if ended:
            self.tally.ended += len(ended) if self.watching else 0
            self.running = [r for r in self.running if r.ended == inf]
            self._use -= sum([self._held(r) for r in ended])
        return ended

    def _pass(self, until: float, steps: int, parts: Step = _NOTHING, before: float | None = None) -> None:
        """Time goes by; `steps` steps of these parts fill it, the cache used `before` them if that was not as after."""
        lasted, self.now = until - self.now, until
        if steps:
            self._use = self._used()
        if not self.watching:
            return
        tally = self.tally
        tally.seconds += lasted
        if not steps:
            return
        used = self._use
        tally.busy_s += lasted
        tally.in_system_s += lasted * (len(self.running) + len(self.waiting))
        tally.running_s += lasted * len(self.running)
        tally.used_s += lasted * (used if before is None else (used + before) / 2)
        tally.peak = max(tally.peak, used)
        tally.no_seat_s += lasted * self._no_seat
        tally.no_room_s += lasted * self._no_room
        tally.steps += steps
        for index, part in enumerate(parts):
            tally.parts[index] += part * steps
