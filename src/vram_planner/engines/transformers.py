"""transformers: one process, one batch, `generate` with a DynamicCache that grows by concatenation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role
from vram_planner.engines.base import Capacity, KvNeed, Memory
from vram_planner.engines.transformers_parts import (
    HOPPER,
    NOT_MODELLED,
    CardPlan,
    activations_part,
    cache_parts,
    found_warnings,
    launch_line,
    runtime_part,
    weights_part,
)
from vram_planner.engines.transformers_pass import Pass
from vram_planner.engines.transformers_place import shares
from vram_planner.engines.transformers_stack import Peak, Stack, make_stack
from vram_planner.engines.transformers_traits import EAGER_ONLY
from vram_planner.errors import ParallelError, RequestError
from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from vram_planner.engines.base import Ask, Device, Workload
    from vram_planner.engines.measured import Measured

ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
DYNAMIC, STATIC = "dynamic", "static"
_PACKED_ON_LOAD = "nf4"
_MOST_REQUESTS = 1 << 20
_LONGEST = 1 << 24
_NEARLY = 4


class Transformers:
    """Hugging Face transformers with `generate`; the whole batch starts and ends together."""

    name = "transformers"
    title = "transformers 5.x"
    vendors = ("nvidia", "amd")
    splits_tensors = False
    families = "transformers"
    gguf = "no"
    smaller = ("awq", None)
    speed_of = "transformers"
    attention_groups = None
    kinds = frozenset({"state", "indexer", "chunked", "cross", "mixed_heads", "compressed"})
    vocabulary_multiple = 1

    def alike(self, ask: Ask) -> Hashable:
        """Only the cuBLAS workspace depends on the card."""
        capability = ask.device.compute_capability if ask.device else None
        return capability is None or capability >= HOPPER

    def usable_bytes(self, ask: Ask) -> int:
        """All of the card."""
        return _device(ask).total_bytes

    def memory(self, ask: Ask) -> Memory:
        """Weights, the cache at full length, the largest moment of prefill, decode and sampling, and the runtime."""
        attn = _attention(ask)
        _refuse(ask)
        stacks, cards = _stacks(ask), ask.layout.tp * ask.layout.pp
        work = _per_replica(ask)
        plan = max((_plan(stack, work, ask, attn) for stack in stacks), key=_plan_total)
        parts = (
            weights_part(plan.stack, ask, cards),
            *cache_parts(plan, work, static=ask.options.cache == STATIC),
            activations_part(plan, work, attn),
            runtime_part(ask.device, plan.held_bytes + plan.activation_bytes),
        )
        return Memory(
            parts=parts,
            kv=_kv_need(plan, work, ask),
            settings={
                "attn": attn,
                "dtype": ask.precision.name,
                "kv_dtype": "auto",
                "cache": ask.options.cache or DYNAMIC,
                "batch": work.concurrency,
                "cards": cards,
                "logits_to_keep": 1,
            },
            launch=launch_line(ask, attn, cards),
            not_modelled=NOT_MODELLED,
            warnings=found_warnings(ask, attn),
        )

    def capacity(self, ask: Ask, memory: Memory) -> Capacity:
        """
        The largest batch and the longest context for which every part fits at once.

        Activations grow with the batch and with the prompt, so there is no pool to divide: both are searched.
        A longer context keeps the share of it that is prompt.
        """
        attn, stacks, work = _attention(ask), _stacks(ask), _per_replica(ask)
        usable, device = self.usable_bytes(ask), _device(ask)

        def needed(batch: int, context: int) -> int:
            prompt = max(1, context * work.prompt_tokens // work.context)
            asked = replace(work, concurrency=batch, context=context, prompt_tokens=prompt)
            return max(_needed(_plan(stack, asked, ask, attn), device, ask.measured) for stack in stacks)

        longest = ask.architecture.max_context or _LONGEST
        most = _most_requests(stacks, work, ask, usable)
        at_once = largest_under(lambda batch: needed(batch, work.context), usable, most)
        others = memory.bytes_of("weights", "activations", "runtime")
        pool = max(0, usable - others)
        one = memory.kv.bytes_per_request + memory.bytes_of("recurrent_state") // work.concurrency
        return Capacity(
            usable_bytes=usable,
            rule="all of the card: transformers sets itself no limit. "
            f"Contexts are searched up to {longest:,} tokens, at one share of prompt.",
            kv_pool_bytes=pool,
            num_blocks=None,
            kv_cache_tokens=pool * work.context // one if one else 0,
            max_concurrency=float(at_once),
            max_context=largest_under(lambda context: needed(work.concurrency, context), usable, longest),
        )


def largest_under(cost: Callable[[int], int], limit: int, ceiling: int) -> int:
    """
    The largest whole number up to `ceiling` whose cost is within `limit`, 0 if none; cost never falls.

    Costs are nearly straight lines, so a secant step finds the place; every other step halves, for those that are not.
    """
    if ceiling < 1 or (low_cost := cost(1)) > limit:
        return 0
    if (high_cost := cost(ceiling)) <= limit:
        return ceiling
    low, high, halve = 1, ceiling, False
    while high - low > 1:
        step = (high - low) // 2 if halve else (limit - low_cost) * (high - low) // (high_cost - low_cost)
        guess = min(max(low + step, low + 1), high - 1)
        found = cost(guess)
        if found <= limit:
            low, low_cost = guess, found
        else:
            high, high_cost = guess, found
        halve = not halve and high - low > _NEARLY
    return low


def _device(ask: Ask) -> Device:
    if ask.device is None:
        raise RequestError(
            "no card was named, so there is no capacity", hint="name one, for example --gpu h100"
        )
    return ask.device


def _attention(ask: Ask) -> str:
    eager_only = ask.architecture.model_type in EAGER_ONLY
    chosen = ask.options.attn or ("eager" if eager_only else "sdpa")
    if chosen not in ATTENTIONS:
        raise RequestError(
            f"transformers has no attention {chosen!r} that we model",
            hint=f"choose one of {', '.join(ATTENTIONS)}",
        )
    if chosen != "eager" and _folds(ask):
        raise RequestError(
            f"transformers 5.23 runs {ask.architecture.model_type} with eager attention alone",
            hint="use --attn eager, or leave --attn out",
        )
    if chosen == "sdpa" and eager_only and ask.architecture.caches:
        raise RequestError(
            f"transformers 5.23 does not run {ask.architecture.model_type} with sdpa",
            hint="use --attn eager, or leave --attn out",
        )
    return chosen


def _folds(ask: Ask) -> bool:
    """Whether layers keep compressed entries (DeepSeek-V4)."""
    return any(cache.compressed is not None for cache, _ in ask.architecture.caches)


def _longest_group(ask: Ask) -> int:
    """Tokens that share one compressed entry, at most; 1 without such layers."""
    strides = [c.compressed.stride for c, _ in ask.architecture.caches if c.compressed is not None]
    return max(strides, default=1)


def _refuse(ask: Ask) -> None:
    if ask.options.kv_dtype != "auto":
        raise RequestError(
            f"a cache in {ask.options.kv_dtype} is not modelled for transformers",
            hint="leave --kv-dtype out: DynamicCache keeps the dtype of the model; or use --engine vllm",
        )
    if ask.options.cache not in (None, DYNAMIC, STATIC):
        raise RequestError(
            f"transformers has no cache {ask.options.cache!r} that we model",
            hint=f"choose {DYNAMIC} or {STATIC}",
        )
    if _folds(ask) and ask.options.cache == STATIC:
        raise RequestError(
            "a StaticCache of compressed layers is not modelled", hint="leave out --cache static"
        )
    cards = ask.layout.tp * ask.layout.pp
    if cards > len(ask.architecture.layers):
        raise ParallelError(
            f"{len(ask.architecture.layers)} layers cannot be dealt out over {cards} cards",
            hint="use fewer cards",
        )


def _per_replica(ask: Ask) -> Workload:
    """Data parallel processes share the requests: ceil(concurrency / dp) each."""
    return replace(ask.workload, concurrency=ceil_div(ask.workload.concurrency, ask.layout.dp))


def _stacks(ask: Ask) -> tuple[Stack, ...]:
    """One stack a card: `device_map="auto"` deals out whole layers, in order, and each card waits for the one before."""
    architecture, cards = ask.architecture, ask.layout.tp * ask.layout.pp
    if cards == 1:
        weights = architecture.weights_bytes(ask.precision)
        return (make_stack(architecture, architecture.layers, weights),)
    return _heaviest_of_each(
        [
            make_stack(architecture, architecture.layers[start : start + count], weights)
            for start, count, weights in shares(architecture, ask.precision, cards)
        ]
    )


def _heaviest_of_each(stacks: list[Stack]) -> tuple[Stack, ...]:
    """Of cards with the same layers only the one with the most weights matters."""
    kept: dict[tuple[tuple[int, int, tuple[int, ...]], ...], Stack] = {}
    for stack in sorted(stacks, key=lambda one: one.weights_bytes):
        kept[tuple((id(kind.layer), kind.count, kind.before) for kind in stack.kinds)] = stack
    return tuple(kept.values())


def _plan(stack: Stack, work: Workload, ask: Ask, attn: str) -> CardPlan:
    """
    The cache and the peak of one card: the largest of prefill, first decode step, last decode step and sampling.

    `worst` takes the unfused kernel where keys and values differ in width, should CUDA not find a fused one;
    `least` fused kernels in recurrent layers.
    """
    size, decoded = ask.precision.element_bytes, work.context > work.prompt_tokens
    prompt = min(work.prompt_tokens, work.context)
    static = work.context if ask.options.cache == STATIC else None
    prefill = Pass(batch=work.concurrency, new=prompt, attn=attn, element_bytes=size, static=static)
    best = worst = least = max(_largest(stack, prefill, work), _loading(stack, ask), key=_peak_bytes)
    if attn == "sdpa" and stack.latent:
        worst = max(best, _largest(stack, replace(prefill, math_kernel=True), work), key=_peak_bytes)
    states = stack.state_bytes(work.concurrency, size)
    if states:
        least = min(best, _largest(stack, replace(prefill, fused=True), work), key=_peak_bytes)
    return CardPlan(
        stack=stack,
        kv_bytes=stack.kv_bytes(work.concurrency, work.context, size, decoded=decoded, static=static),
        state_bytes=states,
        peak=best,
        worst=worst,
        least=least,
    )


def _loading(stack: Stack, ask: Ask) -> Peak:
    """What bitsandbytes packs arrives on the card in 16 bits, one tensor after the other: at most the largest one."""
    if ask.precision.name != _PACKED_ON_LOAD or ask.architecture.precision.name == _PACKED_ON_LOAD:
        return Peak(n_bytes=0, moment="loading")
    largest = max(
        (
            weight.elements
            for kind in stack.kinds
            for weight in kind.layer.weights
            if weight.role in (Role.LINEAR, Role.EXPERT)
        ),
        default=0,
    )
    return Peak(n_bytes=largest * ask.precision.element_bytes, moment="loading")


def _largest(stack: Stack, prefill: Pass, work: Workload) -> Peak:
    """The peak of a prefill and of all that follows it."""
    passes, peaks = [prefill], []
    if work.context > work.prompt_tokens:
        passes.append(replace(prefill, new=1, past=work.context - 1))
        if prefill.static is None and stack.shrinks:
            peaks.append(stack.first_decode(replace(prefill, new=1, past=prefill.new)))
    peaks += [stack.forward(step) for step in passes]
    peaks.append(stack.sampling(passes[-1]))
    return max(peaks, key=_peak_bytes)


def _peak_bytes(peak: Peak) -> int:
    return peak.n_bytes


def _plan_total(plan: CardPlan) -> int:
    return plan.stack.weights_bytes + max(plan.peak.n_bytes, plan.held_bytes)


def _needed(plan: CardPlan, device: Device | None, measured: Measured | None) -> int:
    live = plan.held_bytes + plan.activation_bytes
    if measured is None:
        return plan.stack.weights_bytes + live + runtime_part(device, live).n_bytes
    live = plan.held_bytes + measured.scaled("activations", plan.activation_bytes)
    return plan.stack.weights_bytes + live + measured.runtime(live, runtime_part(device, live).n_bytes)


def _most_requests(stacks: tuple[Stack, ...], work: Workload, ask: Ask, usable: int) -> int:
    """No batch can be larger than what the emptiest card's free memory holds of cache alone."""
    most = _MOST_REQUESTS
    for stack in stacks:
        one = _one_request(stack, work, ask) + stack.state_bytes(1, ask.precision.element_bytes)
        if one:
            most = min(most, max(0, usable - stack.weights_bytes) // one + 1)
    return most


def _one_request(stack: Stack, work: Workload, ask: Ask, more: int = 0) -> int:
    """The cache of one request, `more` tokens longer than asked."""
    context = work.context + more
    return stack.kv_bytes(
        1,
        context,
        ask.precision.element_bytes,
        decoded=work.context > work.prompt_tokens,
        static=context if ask.options.cache == STATIC else None,
    )


def _kv_need(plan: CardPlan, work: Workload, ask: Ask) -> KvNeed:
    one = _one_request(plan.stack, work, ask)
    # What waits for its group of tokens comes and goes: the slope is the average over a group.
    step = _longest_group(ask)
    return KvNeed(
        bytes_per_token=(_one_request(plan.stack, work, ask, more=step) - one) // step,
        bytes_per_request=one,
        n_bytes=plan.kv_bytes,
        replicated_ranks=1,
    )
