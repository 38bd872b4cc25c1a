"""vLLM: a share of the whole card, from which weights, profile run and paged KV cache are paid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vram_planner.architecture.attention import Latent
from vram_planner.architecture.feed_forward import MixtureOfExperts
from vram_planner.architecture.parallel import padded_vocabulary, rank_weight_bytes
from vram_planner.architecture.precision import DTYPES, Place
from vram_planner.architecture.storage import MXFP4
from vram_planner.architecture.weight import Role
from vram_planner.basis import Basis, Part
from vram_planner.engines import vllm_cache
from vram_planner.engines.allocator import allocated_bytes
from vram_planner.engines.base import Ask, Capacity, KvNeed, Memory, largest
from vram_planner.engines.layouts import check_layout, named_device, per_replica, replica_warning
from vram_planner.engines.versions import Profile, band, profile_for
from vram_planner.engines.vllm_profile_run import Peak, Run, activation_peak
from vram_planner.units import GIB, ceil_div, format_gib, round_up

if TYPE_CHECKING:
    from collections.abc import Hashable

    from vram_planner.architecture.model import Layer

_BIG_CARD = 70 * GIB
_HUGE_CARD = 160 * GIB
_HOPPER = 9
_LONGEST = 1 << 27
_SMALL_DEFAULTS = {"max_num_batched_tokens": 2048, "max_num_seqs": 256}
_CODE = "https://github.com/vllm-project/vllm/blob/v0.32.0/vllm"
_FORWARD_ERROR = 0.05
_SORTING_ERROR = 0.15
# vLLM stores these as one tensor, which matters to the allocator's rounding alone.
_FUSED = {
    "q_proj": "qkv",
    "k_proj": "qkv",
    "v_proj": "qkv",
    "gate_proj": "gate_up",
    "up_proj": "gate_up",
    "shared.gate_proj": "shared.gate_up",
    "shared.up_proj": "shared.gate_up",
    "experts.gate": "experts.w13",
    "experts.up": "experts.w13",
    "q_a_proj": "qkv_a",
    "kv_a_proj_with_mqa": "qkv_a",
}
_NOT_MODELLED = (
    "LoRA adapters",
    "speculative decoding (draft model, MTP, EAGLE)",
    "prefix cache hits",
    "CPU offload",
    "sleep mode and other processes on the card",
)


@dataclass(frozen=True, slots=True)
class _Setting:
    """What a version of vLLM does with an ask: its profile and the options after defaults."""

    profile: Profile
    warning: str | None
    utilization: float
    tokens: int
    requests: int
    block: int
    kv_bytes: int

    @property
    def title(self) -> str:
        """As printed: vLLM 0.32."""
        return f"vLLM {self.profile['title']}"


class Vllm:
    """
    vLLM (V1 engine). The budget is `gpu_memory_utilization` × total memory of the card.

    KV pool = budget − weights − activation peak of the profile run − non-torch memory
    [− estimate of the CUDA graphs, from 0.21 on]; what the context and, before 0.21, the graphs
    take comes on top of the budget.
    Source: vllm/v1/worker/gpu_worker.py determine_available_memory.
    """

    name = "vllm"
    title = "vLLM"
    vendors = ("nvidia", "amd")
    splits_tensors = True
    kinds = frozenset({"state", "indexer", "chunked", "mixed_heads"})
    vocabulary_multiple = 64

    def alike(self, ask: Ask) -> Hashable:
        """Defaults go by size and name, workspaces and block size by generation, the V1 sampler by multiprocessors."""
        device = named_device(ask)
        generation = min(device.compute_capability[0], 10) if device.compute_capability else None
        if generation is not None and generation < _HOPPER:
            generation = 0
        tier = (
            device.total_bytes >= _BIG_CARD,
            device.total_bytes >= _HUGE_CARD,
            "a100" in device.name.lower(),
        )
        sampler = profile_for("vllm", ask.options.version)[0]["sampler"]
        return (*tier, generation, device.multiprocessors if sampler == "v1" else None)

    def usable_bytes(self, ask: Ask) -> int:
        """gpu_memory_utilization × total."""
        return int(
            named_device(ask).total_bytes * _utilization(ask, profile_for("vllm", ask.options.version)[0])
        )

    def memory(self, ask: Ask) -> Memory:
        """See `Engine.memory`. Raises ParallelError, PrecisionError or RequestError."""
        check_layout(ask)
        setting = _settle(ask)
        stage = _fullest_stage(ask, setting)
        peak = _peak(ask, setting)
        return Memory(
            parts=(
                _weights_part(ask, stage),
                _kv_part(ask, stage),
                _buffers_part(ask, stage),
                _activation_part(setting, peak),
                _graphs_part(ask, setting),
                _runtime_part(ask, setting),
            ),
            kv=stage.need,
            settings={
                "engine_version": setting.profile["title"],
                "gpu_memory_utilization": setting.utilization,
                "max_num_batched_tokens": setting.tokens,
                "max_num_seqs": setting.requests,
                "block_size": stage.groups.block,
                "kv_dtype": ask.options.kv_dtype,
            },
            launch=_launch(ask, setting),
            not_modelled=_NOT_MODELLED,
            warnings=_warnings(ask, setting),
        )

    def capacity(self, ask: Ask, memory: Memory) -> Capacity:
        """See `Engine.capacity`: blocks are what the pool holds of the fullest stage's blocks."""
        setting = _settle(ask)
        groups = _stage_groups(ask, setting)
        usable = self.usable_bytes(ask)
        fixed = sum(part.budgeted_bytes for part in memory.parts if part.name != "kv_cache")
        pool = max(0, usable - fixed)
        blocks = pool // groups.bytes_per_block
        in_flight = _in_flight(ask, setting)
        concurrency = blocks / groups.blocks_per_request(ask.workload.context, in_flight)

        def fits(context: int) -> bool:
            return groups.blocks_per_request(context, in_flight) * per_replica(ask) <= blocks

        if setting.profile["tokens_by_concurrency"]:
            tokens = int(concurrency * ask.workload.context)
        else:
            tokens = blocks // len(groups.kinds) * groups.block
        return Capacity(
            usable_bytes=usable,
            rule=f"{setting.utilization:g} × {format_gib(named_device(ask).total_bytes)} GiB (gpu_memory_utilization)",
            kv_pool_bytes=pool,
            num_blocks=blocks,
            kv_cache_tokens=tokens,
            max_concurrency=concurrency,
            max_context=largest(
                fits, min(blocks * groups.block, _LONGEST) if ask.architecture.caches else _LONGEST
            ),
        )


def _settle(ask: Ask) -> _Setting:
    profile, warning = profile_for("vllm", ask.options.version)
    options, defaults = ask.options, _SMALL_DEFAULTS
    if ask.device is not None:
        total, name = ask.device.total_bytes, ask.device.name.lower()
        if profile["huge_card"] and total >= _HUGE_CARD:
            defaults = profile["huge_card"]
        elif total >= _BIG_CARD and "a100" not in name:
            defaults = profile["big_card"]
    tokens = options.max_num_batched_tokens or defaults["max_num_batched_tokens"]
    requests = options.max_num_seqs or max(defaults["max_num_seqs"], per_replica(ask))
    return _Setting(
        profile=profile,
        warning=warning,
        utilization=_utilization(ask, profile),
        tokens=tokens,
        requests=min(requests, tokens),
        block=options.block_size or vllm_cache.default_block_size(ask),
        kv_bytes=vllm_cache.element_bytes(options.kv_dtype, ask.precision.element_bytes),
    )


def _utilization(ask: Ask, profile: Profile) -> float:
    return ask.options.gpu_memory_utilization or float(profile["utilization"])


def _in_flight(ask: Ask, setting: _Setting) -> int:
    """Tokens scheduled but not settled: asynchronous scheduling keeps pp + 1 batches under way."""
    batches = setting.profile["in_flight_batches"] + ask.layout.pp - 1
    return int(setting.tokens * batches)


def _stage_groups(ask: Ask, setting: _Setting) -> vllm_cache.Groups:
    return vllm_cache.group_layers(
        ask, block=setting.block, kv_bytes=setting.kv_bytes, hybrid=setting.profile["hybrid_allocator"]
    )


@dataclass(frozen=True, slots=True)
class _Stage:
    """The fullest pipeline stage: its weights and what the asked workload needs on it."""

    weights_bytes: int
    need: KvNeed
    groups: vllm_cache.Groups
    blocks: int


def _fullest_stage(ask: Ask, setting: _Setting) -> _Stage:
    groups = _stage_groups(ask, setting)
    in_flight, context, tp = _in_flight(ask, setting), ask.workload.context, ask.layout.tp
    blocks = groups.blocks_per_request(context, in_flight)
    slope = groups.blocks_per_request(context + groups.block, in_flight) - blocks
    request = blocks * groups.bytes_per_block
    need = KvNeed(
        bytes_per_token=slope * groups.bytes_per_block // groups.block,
        bytes_per_request=request,
        n_bytes=request * per_replica(ask),
        replicated_ranks=min(
            (cache.ranks_holding_each_head(tp) for cache, _ in ask.architecture.caches), default=1
        ),
    )
    weights = max(rank_weight_bytes(ask.architecture, ask.precision, ask.layout))
    return _Stage(weights, need, groups, blocks)


def mxfp4_padding_bytes(ask: Ask) -> int:
    """
    What Marlin's kernel adds to MXFP4 experts: width padded to 128 a rank, hidden size to 256, biases too.

    Triton's kernels (Hopper and newer with triton_kernels installed) pad nothing. Source: vLLM 0.32
    layers/quantization/mxfp4.py; its own allocation of gpt-oss agrees to the byte.
    """
    precision, place, total = ask.precision, Place(ask.architecture, 0), 0
    if ask.layout.expert_parallel:
        return 0
    for layer, count in ask.architecture.groups:
        block = layer.feed_forward
        experts = [weight for weight in layer.weights if weight.role is Role.EXPERT]
        stored = sum(precision.weight_bytes(weight, place) for weight in experts)
        if not isinstance(block, MixtureOfExperts) or stored != sum(map(MXFP4.nbytes, experts)):
            continue
        width, hidden = block.expert_intermediate // ask.layout.tp, block.hidden
        wide, tall = round_up(width, 128), round_up(hidden, 256)
        matrices = 3 * (wide * tall - width * hidden) * 17 // 32
        biases = (2 * (wide - width) + tall - hidden) * precision.element_bytes if block.bias else 0
        total += count * block.n_experts * (matrices + biases)
    return total


def _weights_part(ask: Ask, stage: _Stage) -> Part:
    layout = ask.layout
    padding = mxfp4_padding_bytes(ask)
    share = "" if layout.tp * layout.pp == 1 else f": on the fullest of tp {layout.tp} × pp {layout.pp} ranks"
    return Part(
        name="weights",
        n_bytes=stage.weights_bytes,
        basis=Basis.FORMULA,
        source="tensor shapes of the model's configuration",
        detail=f"{ask.architecture.parameters:,} parameters × {ask.precision.element_bytes} B{share}"
        if ask.precision.name in DTYPES
        else f"{ask.architecture.parameters:,} parameters in {ask.precision.name}{share}",
        high_bytes=stage.weights_bytes + padding if padding else None,
    )


def _kv_part(ask: Ask, stage: _Stage) -> Part:
    groups = stage.groups
    kinds = f" over {len(groups.kinds)} groups" if len(groups.kinds) > 1 else ""
    return Part(
        name="kv_cache",
        n_bytes=stage.need.n_bytes,
        basis=Basis.FORMULA,
        source=f"{_CODE}/v1/core/kv_cache_utils.py",
        detail=(
            f"{per_replica(ask):,} × {stage.blocks:,} blocks × {groups.bytes_per_block:,} B{kinds}"
            f": blocks of {groups.block} tokens, {stage.need.bytes_per_token:,} B a token"
        ),
    )


def _buffers_part(ask: Ask, stage: _Stage) -> Part:
    """Rotary tables, and what the allocator rounds up when it holds the weights: logged as weights."""
    rotary = _rotary_bytes(ask)
    rounding = sum(
        _rounding_bytes(layer, ask) * ceil_div(count, ask.layout.pp)
        for layer, count in ask.architecture.groups
    )
    return Part(
        name="buffers",
        n_bytes=rotary + rounding,
        basis=Basis.FORMULA,
        source="https://github.com/pytorch/pytorch/blob/main/c10/cuda/CUDACachingAllocator.cpp",
        detail=f"rotary tables and allocator rounding: {rotary:,} B + {rounding:,} B; vLLM logs"
        f" {format_gib(stage.weights_bytes + rotary + rounding)} GiB for the weights",
        low_bytes=0,
    )


def _rotary_bytes(ask: Ask) -> int:
    """max_position_embeddings × rotary width × b for each kind of attention (cos and sin, half each)."""
    total = 0
    for mixer in {layer.mixer for layer, _ in ask.architecture.groups}:
        cache = mixer.cache
        width = mixer.rope_dim if isinstance(mixer, Latent) else cache.key_dim if cache else 0
        total = total + (ask.architecture.max_context or 0) * width * ask.precision.element_bytes
    return total


def _rounding_bytes(layer: Layer, ask: Ask) -> int:
    sizes: dict[str, int] = {}
    place = Place(ask.architecture, None)
    for weight in layer.weights:
        if weight.role not in (Role.LINEAR, Role.EXPERT):
            continue
        pieces, of = weight.share(ask.layout.tp)
        if weight.role is Role.EXPERT and ask.layout.expert_parallel:
            pieces, of = ceil_div(weight.shape[0], ask.layout.expert_ranks), weight.shape[0]
        key = _FUSED.get(weight.name, weight.name)
        sizes[key] = sizes.get(key, 0) + ask.precision.weight_bytes(weight, place) * pieces // of
    return sum(allocated_bytes(size) - size for size in sizes.values())


def _peak(ask: Ask, setting: _Setting) -> Peak:
    device = ask.device
    run = Run(
        tokens=setting.tokens,
        requests=setting.requests,
        vocabulary=padded_vocabulary(ask.architecture.vocabulary, Vllm.vocabulary_multiple),
        element_bytes=ask.precision.element_bytes,
        tp=ask.layout.tp,
        context=ask.workload.context,
        block=setting.block,
        sampler=setting.profile["sampler"],
        capability=device.compute_capability if device else None,
        multiprocessors=device.multiprocessors if device else None,
    )
    return activation_peak(ask.architecture, run)


def _activation_part(setting: _Setting, peak: Peak) -> Part:
    fitted = setting.profile["sampler"] == "sorted" and peak.stage == "sampler"
    error = _SORTING_ERROR if fitted else _FORWARD_ERROR
    return Part(
        name="activations",
        n_bytes=peak.n_bytes,
        basis=Basis.MEASURED if fitted else Basis.FORMULA,
        source=f"{_CODE}/v1/worker/gpu_worker.py" if not fitted else setting.profile["source"],
        detail=peak.detail,
        low_bytes=int(peak.n_bytes * (1 - error)),
        high_bytes=int(peak.n_bytes * (1 + error)),
    )


def _graphs_part(ask: Ask, setting: _Setting) -> Part:
    if ask.options.enforce_eager:
        return Part(
            name="cuda_graphs",
            n_bytes=0,
            basis=Basis.FORMULA,
            source=f"{_CODE}/config/model.py",
            detail="none: eager",
        )
    low, best, high = band(setting.profile["graphs"])
    inside = setting.profile["graphs_in_budget"]
    return Part(
        name="cuda_graphs",
        n_bytes=best,
        basis=Basis.MEASURED,
        source=setting.profile["source"],
        detail="estimated inside the budget" if inside else "captured beyond the budget",
        low_bytes=low,
        high_bytes=high,
        in_budget=inside,
    )


def _runtime_part(ask: Ask, setting: _Setting) -> Part:
    kind = "non_torch_tp" if ask.layout.tp > 1 else "non_torch_pp" if ask.layout.pp > 1 else "non_torch_tp1"
    low, best, high = band(setting.profile[kind])
    context_low, context, context_high = band(setting.profile["context"])
    return Part(
        name="runtime",
        n_bytes=best + context,
        basis=Basis.MEASURED,
        source=setting.profile["source"],
        detail=f"non-torch {format_gib(best)} GiB + CUDA context {format_gib(context)} GiB"
        ": the context is gone before vLLM takes its budget",
        low_bytes=low + context_low,
        high_bytes=high + context_high,
        outside_bytes=context,
    )


def _warnings(ask: Ask, setting: _Setting) -> tuple[str, ...]:
    found = [*([setting.warning] if setting.warning else []), *replica_warning(ask)]
    if setting.requests < per_replica(ask):
        found.append(f"max_num_seqs {setting.requests} is below the asked concurrency: the rest would queue")
    return tuple(found)


def _launch(ask: Ask, setting: _Setting) -> str:
    options, layout = ask.options, ask.layout
    words = ["vllm serve {model}", f"--max-model-len {ask.workload.context}"]
    shown = {
        "--max-num-seqs": options.max_num_seqs
        or (setting.requests if setting.requests == per_replica(ask) else None),
        "--max-num-batched-tokens": options.max_num_batched_tokens,
        "--gpu-memory-utilization": options.gpu_memory_utilization,
        "--block-size": options.block_size,
        "--kv-cache-dtype": None if options.kv_dtype == "auto" else options.kv_dtype,
        "--tensor-parallel-size": layout.tp if layout.tp > 1 else None,
        "--pipeline-parallel-size": layout.pp if layout.pp > 1 else None,
        "--data-parallel-size": layout.dp if layout.dp > 1 else None,
    }
    words += [f"{flag} {value}" for flag, value in shown.items() if value is not None]
    if layout.expert_parallel:
        words.append("--enable-expert-parallel")
    if options.enforce_eager:
        words.append("--enforce-eager")
    return " ".join(words)
