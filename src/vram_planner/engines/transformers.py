"""transformers: one process, one batch, `generate` with a DynamicCache that grows by concatenation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.engines.base import Capacity, KvNeed, Memory, Workload
from vram_planner.engines.transformers_cards import (
    OneCard,
    left_to_cpu,
    plan_without_layers,
    stacks_of,
    stacks_within,
)
from vram_planner.engines.transformers_loading import as_loaded, expert_warnings
from vram_planner.engines.transformers_parts import (
    NOT_MODELLED,
    CardPlan,
    activations_part,
    cache_parts,
    found_warnings,
    generation,
    launch_line,
    offload_warnings,
    runtime_bytes,
    runtime_part,
    weights_part,
)
from vram_planner.engines.transformers_plan import (
    ALL,
    DYNAMIC,
    FLOAT32,
    LAST,
    STATIC,
    best_plan,
    card_plan,
    fullest_plan,
    most_requests,
    needed_bytes,
    one_request,
    smallest_requests,
)
from vram_planner.engines.transformers_traits import EAGER_ONLY
from vram_planner.errors import ParallelError, RequestError
from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from vram_planner.basis import Part
    from vram_planner.engines.base import Ask, Device

ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
_LONGEST = 1 << 24
_PATIENCE = 2  # secant steps that do not halve the gap


class Transformers:
    """Hugging Face transformers with `generate`; the whole batch starts and ends together."""

    name = "transformers"
    title = "transformers 5.x"
    vendors = ("nvidia", "amd")
    splits_tensors = False
    offloads = True
    families = "transformers"
    gguf = "no"
    smaller = ("awq", None)
    speed_of = "transformers"
    attention_groups = None
    kinds = frozenset({"state", "indexer", "chunked", "cross", "mixed_heads", "compressed"})
    vocabulary_multiple = 1

    def alike(self, ask: Ask) -> Hashable:
        """Only context and cuBLAS workspace depend on the card, and what is left to the CPU."""
        room = ask.device.total_bytes if ask.device and ask.options.offload else 0
        return generation(ask.device), room

    def usable_bytes(self, ask: Ask) -> int:
        """All of the card."""
        return _device(ask).total_bytes

    def memory(self, ask: Ask) -> Memory:
        """Weights, the cache at full length, the largest moment of prefill, decode and sampling, and the runtime."""
        asked, ask = ask, as_loaded(ask)
        attn = chosen_attention(ask)
        cards = ask.layout.tp * ask.layout.pp
        work = per_process(ask)
        host = left_to_cpu(ask)
        plan = fullest_plan(stacks_of(ask), work, ask, attn)
        return Memory(
            parts=parts_of(plan, work, ask),
            kv=_kv_need(plan, work, ask),
            settings={
                "attn": attn,
                "dtype": ask.precision.name,
                "kv_dtype": "auto",
                "cache": ask.options.cache or DYNAMIC,
                "batch": work.concurrency,
                "cards": cards,
                "offloaded_layers": len(ask.architecture.layers) - host.first_host_layer if host else 0,
                "offloaded_bytes": host.host_bytes if host else 0,
                "logits": ask.options.logits or LAST,
            },
            launch=launch_line(ask, attn, "auto" if cards > 1 or ask.options.offload else "cuda"),
            not_modelled=NOT_MODELLED,
            warnings=(
                *found_warnings(ask, attn),
                *offload_warnings(ask.architecture, host),
                *expert_warnings(asked, ask),
            ),
        )

    def capacity(self, ask: Ask, memory: Memory) -> Capacity:
        """
        The largest batch and the longest context for which every part fits at once.

        Activations grow with the batch and with the prompt, so there is no pool to divide: both are searched.
        A longer context keeps the share of it that is prompt.
        """
        ask = as_loaded(ask)
        attn, stacks, work = chosen_attention(ask), stacks_of(ask), per_process(ask)
        usable, device = self.usable_bytes(ask), _device(ask)

        def needed(batch: int, context: int) -> int:
            prompt = max(1, context * work.prompt_tokens // work.context)
            asked = Workload(concurrency=batch, context=context, prompt_tokens=prompt)
            return max(
                needed_bytes(best_plan(stack, asked, ask, attn), device, ask.measured) for stack in stacks
            )

        longest = ask.architecture.max_context or _LONGEST
        most = most_requests(smallest_requests(stacks, work, ask), usable)
        alone = ask.measured is None and len(stacks) == 1
        here = sum(part.n_bytes for part in memory.parts) if alone else needed(work.concurrency, work.context)
        batch_here, context_here = (work.concurrency, here), (work.context, here)
        at_once = largest_under(lambda batch: needed(batch, work.context), usable, most, batch_here)
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
            find_longest=lambda: largest_under(
                lambda context: needed(work.concurrency, context), usable, longest, context_here
            ),
        )

    def by_card(self, ask: Ask, free_bytes: Sequence[int]) -> tuple[tuple[OneCard, ...], int]:
        """
        What each card takes if `device_map="auto"` deals out over cards with so much free memory, and the bytes left to the CPU.

        `memory` tells of the fullest card, and takes all cards to be empty; this is each card's own answer.
        """
        ask = as_loaded(ask)
        attn, work = chosen_attention(ask), per_process(ask)
        stacks, host_bytes = stacks_within(ask, free_bytes)
        found = []
        for start, count, stack in stacks:
            plan = card_plan(stack, work, ask, attn) if count else plan_without_layers(stack, work, ask, attn)
            found.append(
                OneCard(
                    first_layer=start,
                    n_layers=count,
                    weights_bytes=stack.weights_bytes,
                    held_bytes=plan.held_bytes,
                    activation_bytes=plan.activation_bytes,
                    runtime_bytes=runtime_bytes(ask.device, plan.held_bytes + plan.activation_bytes, attn),
                )
            )
        return tuple(found), host_bytes


def largest_under(
    cost: Callable[[int], int], limit: int, ceiling: int, known: tuple[int, int] | None = None
) -> int:
    """
    The largest whole number up to `ceiling` whose cost is within `limit`, 0 if none; cost never falls.

    `known` is a number whose cost the caller has already. Costs are nearly straight lines, so a secant step finds the
    place. A step that fits is followed by one just above it, and where a bend spoils the secants the gap is halved.
    """
    if ceiling < 1:
        return 0
    low, low_cost = known if known is not None and known[0] <= ceiling else (1, cost(1))
    if low_cost > limit:
        high, high_cost = low, low_cost
        if low == 1 or (low_cost := cost(1)) > limit:
            return 0
        low = 1
    else:
        high, high_cost = ceiling, low_cost if low == ceiling else cost(ceiling)
        if high_cost <= limit:
            return ceiling
    return between(cost, limit, (low, low_cost), (high, high_cost))


def between(cost: Callable[[int], int], limit: int, lower: tuple[int, int], upper: tuple[int, int]) -> int:
    """The same between a number whose cost is within the limit and one whose cost is above it, each with its cost."""
    (low, low_cost), (high, high_cost) = lower, upper
    above = stalls = 0
    while (gap := high - low) > 1:
        halve = stalls == _PATIENCE
        step = gap // 2 if halve else (limit - low_cost) * gap // (high_cost - low_cost) + above
        guess = min(max(low + step, low + 1), high - 1)
        found = cost(guess)
        above = int(found <= limit)
        if above:
            low, low_cost = guess, found
        else:
            high, high_cost = guess, found
        stalls = 0 if halve or 2 * (high - low) <= gap else stalls + 1
    return low


def _device(ask: Ask) -> Device:
    if ask.device is None:
        raise RequestError(
            "no card was named, so there is no capacity", hint="name one, for example --gpu h100"
        )
    return ask.device


def parts_of(plan: CardPlan, work: Workload, ask: Ask) -> tuple[Part, ...]:
    """The parts of that card."""
    return (
        weights_part(plan.stack, ask, ask.layout.tp * ask.layout.pp),
        *cache_parts(plan, work, static=ask.options.cache == STATIC),
        activations_part(plan, work, plan.attn),
        runtime_part(ask.device, plan.live_bytes, plan.attn),
    )


def chosen_attention(ask: Ask) -> str:
    """The attention that runs; RequestError for that and other options that are not modelled, ParallelError for too many cards."""
    _refuse(ask)
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
    if ask.options.logits not in (None, LAST, ALL, FLOAT32):
        raise RequestError(
            f"there are no logits {ask.options.logits!r} to keep", hint=f"choose {LAST}, {ALL} or {FLOAT32}"
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


def per_process(ask: Ask) -> Workload:
    """Data parallel processes share the requests: ceil(concurrency / dp) each."""
    return replace(ask.workload, concurrency=ceil_div(ask.workload.concurrency, ask.layout.dp))


def _kv_need(plan: CardPlan, work: Workload, ask: Ask) -> KvNeed:
    one = one_request(plan.stack, work, ask)
    # What waits for its group of tokens comes and goes: the slope is the average over a group.
    step = _longest_group(ask)
    return KvNeed(
        bytes_per_token=(one_request(plan.stack, work, ask, more=step) - one) // step,
        bytes_per_request=one,
        n_bytes=plan.kv_bytes,
        replicated_ranks=1,
    )
