"""The parts of a transformers plan, its launch line and its warnings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vram_planner.basis import Basis, Part
from vram_planner.units import GIB, MIB

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.engines.base import Ask, Device, Workload
    from vram_planner.engines.transformers_place import Placed
    from vram_planner.engines.transformers_stack import Peak, Stack

_TREE = "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers"
CACHE_SOURCE = f"{_TREE}/cache_utils.py"
PEAK_SOURCE = f"{_TREE}/models/llama/modeling_llama.py"
WEIGHT_SOURCE = f"{_TREE}/modeling_utils.py"
RUNTIME_SOURCE = "https://docs.pytorch.org/docs/stable/notes/cuda.html#memory-management"

# A CUDA context with torch's kernels loaded (best, low, high): 250 to 600 MiB have been seen on cards from A40 to RTX 5090.
_CONTEXT = (450 * MIB, 250 * MIB, 700 * MIB)
# On Hopper: 676 MiB after the first matrix product, 686 once cuDNN's attention ran, in each of 39 runs.
_CONTEXT_HOPPER = (686 * MIB, 450 * MIB, 700 * MIB)
_MEASURED_ON = "one H100 80GB HBM3, driver 580.159.04, torch 2.11.0+cu130, transformers 5.23.0, 2026-11-22"
# torch keeps one cuBLAS workspace a handle: 32 MiB from compute capability 9.0 on, 8.125 MiB before.
_WORKSPACE_NEW, _WORKSPACE_OLD, HOPPER = 32 * MIB, 8 * MIB + 128 * 1024, (9, 0)
# Per cent that the allocator reserves and does not use of all that comes and goes (best, low, high): segments never quite
# full, a cache whose tensors outgrow their old blocks, and eager's score matrices, which no later tensor fits into. Means
# over DeepSeek-R1-Distill-Qwen 1.5B and 7B at several contexts and batches; 0.5B, Mistral-7B and Llama-8B kept out: 14 to 25, 20 to 45.
_FRAGMENTATION_PERCENT = {"sdpa": (15, 0, 26), "flash_attention_2": (15, 0, 26), "eager": (44, 10, 51)}

NOT_MODELLED = (
    "quantised and offloaded caches",
    "beams, assisted decoding and torch.compile (a static cache is compiled for by generate)",
    "prompts of unlike length, unless --padded says so: a batch is filled up to its longest, which --prompt-tokens means",
    "work space of quantised kernels, weights unpacked on the fly, and what torchao and HQQ compute while they pack",
    "layers left to the CPU's memory, unless --offload asks for it",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardPlan:
    """
    One card's answer: its cache and states, the peak beyond the weights, and which pass sets it.

    `worst` and `least` bound that peak: other kernels may be chosen, or installed.
    """

    stack: Stack
    kv_bytes: int
    state_bytes: int
    peak: Peak
    worst: Peak
    least: Peak
    attn: str

    @property
    def held_bytes(self) -> int:
        """Cache and states at full length."""
        return self.kv_bytes + self.state_bytes

    @property
    def activation_bytes(self) -> int:
        """What the peak needs beyond cache and states."""
        return max(0, self.peak.n_bytes - self.held_bytes)

    @property
    def live_bytes(self) -> int:
        """All that comes and goes beside the weights."""
        return self.held_bytes + self.activation_bytes


def weights_part(stack: Stack, ask: Ask, cards: int) -> Part:
    """The weights of the fullest card."""
    where = "" if cards == 1 else f" on the fullest of {cards} cards"
    return Part(
        name="weights",
        n_bytes=stack.weights_bytes,
        basis=getattr(ask.precision, "basis", Basis.FORMULA),
        source=getattr(ask.precision, "source", WEIGHT_SOURCE),
        detail=f"{ask.architecture.parameters:,} parameters in {ask.precision.name}, tied tensors once, and buffers{where}",
    )


def cache_parts(plan: CardPlan, work: Workload, *, static: bool) -> tuple[Part, ...]:
    """The cache, and the recurrent states where there are any."""
    kind = "StaticCache" if static else "DynamicCache"
    kv = Part(
        name="kv_cache",
        n_bytes=plan.kv_bytes,
        basis=Basis.FORMULA,
        source=CACHE_SOURCE,
        detail=f"{kind} of {work.concurrency} × {work.context:,} tokens; what rounding each tensor to 512 B adds "
        "is counted under activations",
    )
    if not plan.state_bytes:
        return (kv,)
    state = Part(
        name="recurrent_state",
        n_bytes=plan.state_bytes,
        basis=Basis.FORMULA,
        source=CACHE_SOURCE,
        detail=f"states of {work.concurrency} sequences, whatever their length: the inputs of each short convolution "
        "over its whole kernel, and recurrent states, most in float32",
    )
    return (kv, state)


def activations_part(plan: CardPlan, work: Workload, attn: str) -> Part:
    """What the largest moment needs beyond weights, cache and states."""
    n_bytes = plan.activation_bytes
    staged = ""
    if plan.stack.staged_bytes:
        size = f"{plan.stack.staged_bytes / GIB:.3f} GiB"
        staged = (
            f"{size} of it the largest module copied in from the CPU's memory, at most at the same time; "
        )
    return Part(
        name="activations",
        n_bytes=n_bytes,
        basis=Basis.FORMULA,
        source=PEAK_SOURCE,
        detail=f"most at {plan.peak.moment}: {attn}, {work.concurrency} × {work.prompt_tokens:,} prompt tokens; {staged}"
        f"{plan.peak.n_bytes / GIB:.3f} GiB live beyond the weights, less the cache at full length",
        low_bytes=min(n_bytes, max(0, plan.least.n_bytes - plan.held_bytes)),
        high_bytes=max(n_bytes, plan.worst.n_bytes - plan.held_bytes),
    )


def generation(device: Device | None) -> str:
    """Of what a card's runtime depends on: "hopper", "newer" (or not known), "older"."""
    capability = None if device is None else device.compute_capability
    if capability is None or capability > HOPPER:
        return "newer"
    return "hopper" if capability == HOPPER else "older"


def free_bytes(device: Device) -> int:
    """What is free on a card when a model is loaded: all but the CUDA context."""
    return max(0, device.total_bytes - _CONTEXT[0])


def _runtime(device: Device | None, live: int, attn: str) -> tuple[int, int, int]:
    """Best, low and high: context + workspace + a share of what comes and goes."""
    older = generation(device) == "older"
    contexts, workspace = (_CONTEXT, _WORKSPACE_OLD) if older else (_CONTEXT_HOPPER, _WORKSPACE_NEW)
    best, low, high = (
        context + workspace + live * percent // 100
        for context, percent in zip(contexts, _FRAGMENTATION_PERCENT[attn], strict=True)
    )
    return best, low, high


def runtime_bytes(device: Device | None, live: int, attn: str) -> int:
    """The best figure of `runtime_part`, without the part."""
    return _runtime(device, live, attn)[0]


def runtime_part(device: Device | None, live: int, attn: str) -> Part:
    """
    CUDA context, cuBLAS workspace, and segments of the caching allocator that are not full.

    context + workspace + 15 % (eager: 44 %) of all that comes and goes. Measured on one H100, assumed for any other card
    and for flash_attention_2.
    """
    best, low, high = _runtime(device, live, attn)
    kind = generation(device)
    older = kind == "older"
    context, workspace = (_CONTEXT[0], _WORKSPACE_OLD) if older else (_CONTEXT_HOPPER[0], _WORKSPACE_NEW)
    measured = kind == "hopper" and attn != "flash_attention_2"
    return Part(
        name="runtime",
        n_bytes=best,
        basis=Basis.MEASURED if measured else Basis.ASSUMED,
        source=f"measured on {_MEASURED_ON}" if measured else RUNTIME_SOURCE,
        detail=f"CUDA context {context // MIB} MiB, cuBLAS workspace {workspace / MIB:.1f} MiB, "
        f"fragmentation {_FRAGMENTATION_PERCENT[attn][0]} % of cache and activations",
        low_bytes=low,
        high_bytes=high,
    )


def launch_line(ask: Ask, attn: str, placed: str) -> str:
    """The Python call that loads the model so."""
    dtype = ask.precision.name if ask.precision.name in {"bfloat16", "float16", "float32"} else "auto"
    chosen = "" if not ask.architecture.caches else f', attn_implementation="{attn}"'
    return (
        f'AutoModelForCausalLM.from_pretrained("{{model}}", dtype="{dtype}", device_map="{placed}"{chosen})'
    )


def offload_warnings(architecture: Architecture, host: Placed | None) -> tuple[str, ...]:
    """How much is left to the CPU, and what that means."""
    if host is None:
        return ()
    count = len(architecture.layers) - host.first_host_layer
    what = f"{count} of {len(architecture.layers)} layers" + (" and the head" if host.host_head else "")
    told = (
        f"{what} ({host.host_bytes / GIB:.2f} GiB) stay in the CPU's memory, or on disk beyond 90 % of what is free "
        "there: each pass copies them all to the card, so each token waits for that; no speed is told"
    )
    return (told,)


def found_warnings(ask: Ask, attn: str) -> tuple[str, ...]:
    """What the user should know of how transformers takes the request."""
    found = []
    if ask.layout.tp > 1:
        found.append(
            f'tp {ask.layout.tp} is read as a number of cards: device_map="auto" deals out whole layers, and the '
            "cards work one after the other; this is no tensor parallelism"
        )
    if ask.layout.expert_parallel:
        found.append("expert parallelism is ignored: the layers are dealt out whole")
    if attn == "eager" and ask.options.attn is None and ask.architecture.caches:
        found.append(f"transformers runs {ask.architecture.model_type} with eager attention")
    if ask.options.gpu_memory_utilization is not None:
        found.append("transformers knows no memory utilization: all of the card is its own")
    for cache, count in ask.architecture.caches:
        if cache.fixed_tokens is not None:
            size = count * cache.elements_per_token() * cache.fixed_tokens * ask.precision.element_bytes
            found.append(
                f"prompts are taken to be text alone: an image adds {size / MIB:,.0f} MiB of cache to its request"
            )
    if any(state.kind != "compressor" for state, _ in ask.architecture.states):
        found.append(
            "recurrent layers are taken to run on torch's own code; with mamba-ssm, causal-conv1d or "
            "flash-linear-attention installed they need less (the low end of the activations)"
        )
    return tuple(found)
