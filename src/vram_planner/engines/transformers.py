"""transformers: one process, one batch, `generate` with a DynamicCache that grows by concatenation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vram_planner.architecture.parallel import Layout, rank_weight_bytes, stage_layers
from vram_planner.basis import Basis, Part
from vram_planner.engines.base import Capacity, KvNeed, Memory
from vram_planner.engines.transformers_peaks import Pass
from vram_planner.engines.transformers_stack import Peak, Stack, make_stack
from vram_planner.errors import ParallelError, RequestError
from vram_planner.units import GIB, MIB, ceil_div

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from vram_planner.engines.base import Ask, Device, Workload

_TREE = "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers"
CACHE_SOURCE = f"{_TREE}/cache_utils.py"
PEAK_SOURCE = f"{_TREE}/models/llama/modeling_llama.py"
WEIGHT_SOURCE = f"{_TREE}/modeling_utils.py"
RUNTIME_SOURCE = "https://docs.pytorch.org/docs/stable/notes/cuda.html#memory-management"

ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
# 5.23 refuses sdpa for these: sinks and capped scores have no place in the fused kernel.
_EAGER_ONLY = frozenset({"gemma2", "gpt_oss"})
# A CUDA context with torch's kernels loaded: 250 to 600 MiB have been seen on cards from A40 to RTX 5090.
_CONTEXT = (450 * MIB, 250 * MIB, 600 * MIB)
# torch keeps one cuBLAS workspace a handle: 32 MiB from compute capability 9.0 on, 8.125 MiB before.
_WORKSPACE_NEW, _WORKSPACE_OLD, _HOPPER = 32 * MIB, 8 * MIB + 128 * 1024, (9, 0)
# Segments that are never quite full, and a cache whose tensors outgrow their old blocks: reserved over live (best, low, high).
_FRAGMENTATION_PERCENT = (2, 0, 10)
_MOST_REQUESTS = 1 << 20
_LONGEST = 1 << 24
_NEARLY = 4

NOT_MODELLED = (
    "static, quantised and offloaded caches",
    "beams, assisted decoding and torch.compile",
    "padding: requests of one batch are taken to be equally long",
    "work space of quantised kernels, and weights unpacked on the fly",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """One card's answer: its cache, the peak beyond the weights, and which pass sets it."""

    stack: Stack
    kv_bytes: int
    peak: Peak
    worst: Peak


class Transformers:
    """Hugging Face transformers with `generate`; the whole batch starts and ends together."""

    name = "transformers"
    title = "transformers 5.x"
    vendors = ("nvidia", "amd")
    splits_tensors = False
    kinds: frozenset[str] = frozenset()
    vocabulary_multiple = 1

    def alike(self, ask: Ask) -> Hashable:
        """Only the cuBLAS workspace depends on the card."""
        capability = ask.device.compute_capability if ask.device else None
        return capability is None or capability >= _HOPPER

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
        activations = _activations(plan, work, attn)
        parts = (
            _weights(plan.stack, ask, cards),
            _kv_part(plan, work),
            activations,
            _runtime(ask.device, plan.kv_bytes + activations.n_bytes),
        )
        return Memory(
            parts=parts,
            kv=_kv_need(plan, work, ask),
            settings={
                "attn": attn,
                "dtype": ask.precision.name,
                "kv_dtype": "auto",
                "batch": work.concurrency,
                "cards": cards,
                "logits_to_keep": 1,
            },
            launch=_launch(ask, attn, cards),
            not_modelled=NOT_MODELLED,
            warnings=_warnings(ask, attn, cards),
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
            return max(_needed(_plan(stack, asked, ask, attn), device) for stack in stacks)

        longest = ask.architecture.max_context or _LONGEST
        most = _most_requests(stacks, work, ask, usable)
        at_once = largest_under(lambda batch: needed(batch, work.context), usable, most)
        pool = max(0, usable - sum(part.n_bytes for part in memory.parts if part.name != "kv_cache"))
        one = memory.kv.bytes_per_request
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
    eager_only = ask.architecture.model_type in _EAGER_ONLY
    chosen = ask.options.attn or ("eager" if eager_only else "sdpa")
    if chosen not in ATTENTIONS:
        raise RequestError(
            f"transformers has no attention {chosen!r} that we model",
            hint=f"choose one of {', '.join(ATTENTIONS)}",
        )
    if chosen == "sdpa" and eager_only:
        raise RequestError(
            f"transformers 5.23 does not run {ask.architecture.model_type} with sdpa",
            hint="use --attn eager, or leave --attn out",
        )
    return chosen


def _refuse(ask: Ask) -> None:
    if ask.options.kv_dtype != "auto":
        raise RequestError(
            f"a cache in {ask.options.kv_dtype} is not modelled for transformers",
            hint="leave --kv-dtype out: DynamicCache keeps the dtype of the model; or use --engine vllm",
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
    """One stack a card: `device_map="auto"` deals out whole layers, as pipeline stages without a pipeline."""
    architecture, cards = ask.architecture, ask.layout.tp * ask.layout.pp
    if cards == 1:
        weights = architecture.weights_bytes(ask.precision)
        return (make_stack(architecture, architecture.layers, weights),)
    weights_of = rank_weight_bytes(architecture, ask.precision, Layout(pp=cards), vocabulary_multiple=1)
    stacks, start = [], 0
    for count, weights in zip(stage_layers(len(architecture.layers), cards), weights_of, strict=True):
        stacks.append(make_stack(architecture, architecture.layers[start : start + count], weights))
        start += count
    return _heaviest_of_each(stacks)


def _heaviest_of_each(stacks: list[Stack]) -> tuple[Stack, ...]:
    """Of cards with the same layers only the one with the most weights matters."""
    kept: dict[tuple[tuple[int, int, tuple[int, ...]], ...], Stack] = {}
    for stack in sorted(stacks, key=lambda one: one.weights_bytes):
        kept[tuple((id(kind.layer), kind.count, kind.before) for kind in stack.kinds)] = stack
    return tuple(kept.values())


def _plan(stack: Stack, work: Workload, ask: Ask, attn: str) -> _Plan:
    """
    The cache and the peak of one card: the largest of prefill, first decode step, last decode step and sampling.

    `worst` takes the unfused kernel where keys and values differ in width, should CUDA not find a fused one.
    """
    size, decoded = ask.precision.element_bytes, work.context > work.prompt_tokens
    prompt = min(work.prompt_tokens, work.context)
    prefill = Pass(batch=work.concurrency, new=prompt, attn=attn, element_bytes=size)
    passes = [prefill]
    peaks = []
    if decoded:
        passes.append(replace(prefill, new=1, past=work.context - 1))
        if any(stack.windows):
            peaks.append(stack.first_decode(replace(prefill, new=1, past=prompt)))
    peaks += [stack.forward(step) for step in passes]
    peaks.append(stack.sampling(passes[-1]))
    best = max(peaks, key=_peak_bytes)
    worst = best
    if attn == "sdpa" and stack.latent:
        worst = max((stack.forward(replace(step, math_kernel=True)) for step in passes), key=_peak_bytes)
    return _Plan(
        stack=stack,
        kv_bytes=stack.kv_bytes(work.concurrency, work.context, size, decoded=decoded),
        peak=best,
        worst=max(best, worst, key=_peak_bytes),
    )


def _peak_bytes(peak: Peak) -> int:
    return peak.n_bytes


def _plan_total(plan: _Plan) -> int:
    return plan.stack.weights_bytes + max(plan.peak.n_bytes, plan.kv_bytes)


def _needed(plan: _Plan, device: Device | None) -> int:
    activations = max(0, plan.peak.n_bytes - plan.kv_bytes)
    return (
        plan.stack.weights_bytes
        + plan.kv_bytes
        + activations
        + _runtime(device, plan.kv_bytes + activations).n_bytes
    )


def _most_requests(stacks: tuple[Stack, ...], work: Workload, ask: Ask, usable: int) -> int:
    """No batch can be larger than what the emptiest card's free memory holds of cache alone."""
    size = ask.precision.element_bytes
    most = _MOST_REQUESTS
    for stack in stacks:
        one = stack.kv_bytes(1, work.context, size, decoded=work.context > work.prompt_tokens)
        if one:
            most = min(most, max(0, usable - stack.weights_bytes) // one + 1)
    return most


def _weights(stack: Stack, ask: Ask, cards: int) -> Part:
    where = "" if cards == 1 else f" on the fullest of {cards} cards"
    return Part(
        name="weights",
        n_bytes=stack.weights_bytes,
        basis=Basis.FORMULA,
        source=WEIGHT_SOURCE,
        detail=f"{ask.architecture.parameters:,} parameters in {ask.precision.name}, tied tensors once, and buffers{where}",
    )


def _kv_part(plan: _Plan, work: Workload) -> Part:
    return Part(
        name="kv_cache",
        n_bytes=plan.kv_bytes,
        basis=Basis.FORMULA,
        source=CACHE_SOURCE,
        detail=f"DynamicCache of {work.concurrency} × {work.context:,} tokens; what rounding each tensor to 512 B adds "
        "is counted under activations",
    )


def _activations(plan: _Plan, work: Workload, attn: str) -> Part:
    n_bytes = max(0, plan.peak.n_bytes - plan.kv_bytes)
    return Part(
        name="activations",
        n_bytes=n_bytes,
        basis=Basis.FORMULA,
        source=PEAK_SOURCE,
        detail=f"most at {plan.peak.moment}: {attn}, {work.concurrency} × {work.prompt_tokens:,} prompt tokens; "
        f"{plan.peak.n_bytes / GIB:.3f} GiB live beyond the weights, less the cache at full length",
        low_bytes=n_bytes,
        high_bytes=max(n_bytes, plan.worst.n_bytes - plan.kv_bytes),
    )


def _runtime(device: Device | None, live: int) -> Part:
    """
    CUDA context, cuBLAS workspace, and segments of the caching allocator that are not full.

    context + workspace + 2 % (0 to 10 %) of all that comes and goes. Assumed: no machine of ours has measured it.
    """
    new = device is None or device.compute_capability is None or device.compute_capability >= _HOPPER
    workspace = _WORKSPACE_NEW if new else _WORKSPACE_OLD
    best, low, high = (
        context + workspace + live * percent // 100
        for context, percent in zip(_CONTEXT, _FRAGMENTATION_PERCENT, strict=True)
    )
    return Part(
        name="runtime",
        n_bytes=best,
        basis=Basis.ASSUMED,
        source=RUNTIME_SOURCE,
        detail=f"CUDA context {_CONTEXT[0] // MIB} MiB, cuBLAS workspace {workspace / MIB:.1f} MiB, "
        f"fragmentation {_FRAGMENTATION_PERCENT[0]} % of cache and activations",
        low_bytes=low,
        high_bytes=high,
    )


def _kv_need(plan: _Plan, work: Workload, ask: Ask) -> KvNeed:
    size, decoded = ask.precision.element_bytes, work.context > work.prompt_tokens
    one = plan.stack.kv_bytes(1, work.context, size, decoded=decoded)
    return KvNeed(
        bytes_per_token=plan.stack.kv_bytes(1, work.context + 1, size, decoded=decoded) - one,
        bytes_per_request=one,
        n_bytes=plan.kv_bytes,
        replicated_ranks=1,
    )


def _launch(ask: Ask, attn: str, cards: int) -> str:
    placed = "auto" if cards > 1 else "cuda"
    dtype = ask.precision.name if ask.precision.name in {"bfloat16", "float16", "float32"} else "auto"
    return (
        f'AutoModelForCausalLM.from_pretrained("{{model}}", dtype="{dtype}", device_map="{placed}", '
        f'attn_implementation="{attn}")'
    )


def _warnings(ask: Ask, attn: str, cards: int) -> tuple[str, ...]:
    found = []
    if cards > 1:
        found.append(
            f'device_map="auto" deals out whole layers over {cards} cards, which then work one after the other; '
            "this is no tensor parallelism"
        )
    if ask.layout.expert_parallel:
        found.append("expert parallelism is ignored: the layers are dealt out whole")
    if attn == "eager" and ask.options.attn is None:
        found.append(f"transformers runs {ask.architecture.model_type} with eager attention")
    if ask.options.gpu_memory_utilization is not None:
        found.append("transformers knows no memory utilization: all of the card is its own")
    return tuple(found)
