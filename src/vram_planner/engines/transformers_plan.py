"""What one card of transformers takes for a workload: the largest moment of all passes, and the cache beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.engines.transformers_loading import loading_peak
from vram_planner.engines.transformers_parts import CardPlan, runtime_bytes
from vram_planner.engines.transformers_pass import Pass
from vram_planner.engines.transformers_stack import Peak, Stack
from vram_planner.engines.transformers_traits import KEEPS_ALL_LOGITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vram_planner.engines.base import Ask, Device, Workload
    from vram_planner.engines.measured import Measured

DYNAMIC, STATIC = "dynamic", "static"
# Whose logits are computed: the last position's, as generate asks; all; all, and a copy in float32, as before 4.45.
LAST, ALL, FLOAT32 = "last", "all", "float32"
_MOST_REQUESTS = 1 << 20


def fullest_plan(stacks: Sequence[Stack], work: Workload, ask: Ask, attn: str) -> CardPlan:
    """The plan of the card that needs most."""
    return max((card_plan(stack, work, ask, attn) for stack in stacks), key=plan_total)


def card_plan(stack: Stack, work: Workload, ask: Ask, attn: str) -> CardPlan:
    """
    The cache and the peak of one card: the largest of prefill, first decode step, last decode step and sampling.

    `worst` takes the unfused kernel where keys and values differ in width, should CUDA not find a fused one;
    `least` fused kernels in recurrent layers.
    """
    prefill, every = _prefill(work, ask, attn), _keeps_every(ask)
    best = worst = least = _best(stack, work, ask, prefill)
    found = _with_peak(stack, work, prefill, best)
    if attn == "sdpa" and stack.latent:
        worst = max(
            best, _largest(stack, replace(prefill, math_kernel=True), work, every=every), key=_peak_bytes
        )
    if found.state_bytes:
        least = min(best, _largest(stack, replace(prefill, fused=True), work, every=every), key=_peak_bytes)
    if stack.staged_bytes:
        copied = Peak(n_bytes=found.held_bytes + stack.staged_bytes, moment="copy")
        least = max(least, copied, key=_peak_bytes)
    return replace(found, worst=worst.beside(stack.staged_bytes), least=least)


def best_plan(stack: Stack, work: Workload, ask: Ask, attn: str) -> CardPlan:
    """The same without its bounds, which a search does not look at."""
    prefill = _prefill(work, ask, attn)
    return _with_peak(stack, work, prefill, _best(stack, work, ask, prefill))


def _with_peak(stack: Stack, work: Workload, prefill: Pass, best: Peak) -> CardPlan:
    size, decoded = prefill.element_bytes, work.context > work.prompt_tokens
    peak = best.beside(stack.staged_bytes)
    return CardPlan(
        stack=stack,
        kv_bytes=stack.kv_bytes(work.concurrency, work.context, size, decoded=decoded, static=prefill.static),
        state_bytes=stack.state_bytes(work.concurrency, size),
        peak=peak,
        worst=peak,
        least=peak,
        attn=prefill.attn,
    )


def _best(stack: Stack, work: Workload, ask: Ask, prefill: Pass) -> Peak:
    found = _largest(stack, prefill, work, every=_keeps_every(ask))
    return max(found, loading_peak(stack, ask), key=_peak_bytes)


def _keeps_every(ask: Ask) -> bool:
    """Whether the logits of every position are computed."""
    return ask.options.logits in (ALL, FLOAT32) or ask.architecture.model_type in KEEPS_ALL_LOGITS


def _prefill(work: Workload, ask: Ask, attn: str) -> Pass:
    return Pass(
        batch=work.concurrency,
        new=min(work.prompt_tokens, work.context),
        attn=attn,
        element_bytes=ask.precision.element_bytes,
        static=work.context if ask.options.cache == STATIC else None,
        upcast=ask.options.logits == FLOAT32,
        padded=bool(ask.options.padded) and work.concurrency > 1,
    )


def _largest(stack: Stack, prefill: Pass, work: Workload, *, every: bool) -> Peak:
    """The peak of a prefill, with the logits of `every` position or of the last, and of all that follows it."""
    kept = prefill.new if every else 1
    last, peaks = prefill, [stack.forward(prefill, kept)]
    if every:
        peaks.append(stack.sampling(prefill, kept))
    if work.context > work.prompt_tokens:
        last = prefill.decode(work.context - 1)
        if prefill.static is None and stack.shrinks:
            peaks.append(stack.first_decode(prefill.decode(prefill.new)))
        peaks.append(stack.forward(last))
    peaks.append(stack.sampling(last))
    return max(peaks, key=_peak_bytes)


def _peak_bytes(peak: Peak) -> int:
    return peak.n_bytes


def plan_total(plan: CardPlan) -> int:
    """What a card needs beside its runtime: by this the fullest is found."""
    return plan.stack.weights_bytes + max(plan.peak.n_bytes, plan.held_bytes)


def needed_bytes(plan: CardPlan, device: Device | None, measured: Measured | None) -> int:
    """All that a card needs, by what was measured where something was."""
    planned = runtime_bytes(device, plan.live_bytes, plan.attn)
    if measured is None:
        return plan.stack.weights_bytes + plan.live_bytes + planned
    live = plan.held_bytes + measured.scaled("activations", plan.activation_bytes)
    return plan.stack.weights_bytes + live + measured.runtime(live, planned)


def smallest_requests(stacks: Sequence[Stack], work: Workload, ask: Ask) -> tuple[tuple[int, int], ...]:
    """Of each card the bytes of its weights, and those of one request's cache and states alone."""
    return tuple(
        (
            stack.weights_bytes,
            one_request(stack, work, ask) + stack.state_bytes(1, ask.precision.element_bytes),
        )
        for stack in stacks
    )


def most_requests(smallest: tuple[tuple[int, int], ...], usable: int) -> int:
    """No batch can be larger than what the emptiest card's free memory holds of cache alone."""
    most = _MOST_REQUESTS
    for weights, one in smallest:
        if one:
            most = min(most, max(0, usable - weights) // one + 1)
    return most


def one_request(stack: Stack, work: Workload, ask: Ask, more: int = 0) -> int:
    """The cache of one request, `more` tokens longer than asked."""
    context = work.context + more
    return stack.kv_bytes(
        1,
        context,
        ask.precision.element_bytes,
        decoded=work.context > work.prompt_tokens,
        static=context if ask.options.cache == STATIC else None,
    )
