"""vLLM's parts, each with its formula, its bounds and its source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.feed_forward import MixtureOfExperts
from vram_planner.architecture.parallel import (
    Layout,
    padded_vocabulary,
    rank_weight_bytes,
    stage_layers,
)
from vram_planner.architecture.precision import DTYPES, Place
from vram_planner.architecture.storage import MXFP4
from vram_planner.architecture.weight import Role
from vram_planner.basis import Basis, Part
from vram_planner.engines.layouts import per_replica
from vram_planner.engines.served import how_served
from vram_planner.engines.versions import band
from vram_planner.engines.vllm_encoder import profiled_requests
from vram_planner.engines.vllm_held import (
    VOCABULARY_MULTIPLE,
    absorbed_bytes,
    rotary_bytes,
    rounding_bytes,
)
from vram_planner.engines.vllm_profile_run import Peak, Run, activation_peak
from vram_planner.units import ceil_div, format_gib, round_up

if TYPE_CHECKING:
    from vram_planner.engines.base import Ask
    from vram_planner.engines.vllm_setting import Setting, Stage

_CODE = "https://github.com/vllm-project/vllm/blob/v0.32.0/vllm"
_FORWARD_ERROR = 0.05
# Four logs of pictures before 0.9 are -22 to +13 % off, two of 0.24 about 5 %.
_EYE_ERROR, _EARLY_EYE_ERROR = 0.1, 0.25
_MOST_CAPTURED = 256
_HOPPER = 9


def mxfp4_padding_bytes(ask: Ask) -> int:
    """
    What Marlin's kernel adds to MXFP4 experts: width padded to 128 a rank, hidden size to 256, biases too.

    Triton's kernels (Hopper and newer with triton_kernels installed) pad nothing. Source: vLLM 0.32
    layers/quantization/mxfp4.py; its own allocation of gpt-oss agrees to the byte.
    """
    precision, place, total = ask.precision, Place(ask.architecture, 0), 0
    for layer, count in ask.architecture.groups:
        block = layer.feed_forward
        experts = [weight for weight in layer.weights if weight.role is Role.EXPERT]
        stored = sum(precision.weight_bytes(weight, place) for weight in experts)
        if not isinstance(block, MixtureOfExperts) or stored != sum(map(MXFP4.nbytes, experts)):
            continue
        tp = 1 if ask.layout.expert_parallel else ask.layout.expert_tp
        width, hidden = block.expert_intermediate // tp, block.hidden
        wide, tall = round_up(width, 128), round_up(hidden, 256)
        matrices = 3 * (wide * tall - width * hidden) * 17 // 32
        biases = (2 * (wide - width) + tall - hidden) * precision.element_bytes if block.bias else 0
        total += (
            max(stage_layers(count, ask.layout.pp))
            * ceil_div(block.n_experts, ask.layout.expert_ranks)
            * (matrices + biases)
        )
    return total


def weights_part(ask: Ask, stage: Stage, setting: Setting) -> Part:
    """One rank's tensors; MXFP4 experts may be padded by the kernel, by version and at the high end."""
    layout = ask.layout
    padding = mxfp4_padding_bytes(ask)
    padded = padding * setting.profile.get("mxfp4_padding", 0) // 100
    share = "" if layout.tp * layout.pp == 1 else f": on the fullest of tp {layout.tp} × pp {layout.pp} ranks"
    return Part(
        name="weights",
        n_bytes=stage.weights_bytes + padded,
        basis=getattr(ask.precision, "basis", Basis.FORMULA),
        source=getattr(ask.precision, "source", "tensor shapes of the model's configuration"),
        detail=f"{ask.architecture.parameters:,} parameters × {ask.precision.element_bytes} B{share}"
        if ask.precision.name in DTYPES
        else f"{ask.architecture.parameters:,} parameters in {ask.precision.name}{share}",
        high_bytes=_most_weights(ask, stage.weights_bytes + padding),
    )


def _most_weights(ask: Ask, padded: int) -> int:
    """With padding; of a family that tensor parallelism has no plan for, the whole model on every rank."""
    layout, family = ask.layout, ask.architecture.model_type
    if layout.tp > 1 and how_served("vllm", "vLLM", family, ask.options.version).uncut:
        return max(rank_weight_bytes(ask.architecture, ask.precision, Layout(pp=layout.pp)))
    return padded


def kv_part(ask: Ask, stage: Stage) -> Part:
    """What the asked requests need of the pool of blocks, states left out."""
    groups = stage.groups
    kinds = f" over {len(groups.kinds)} groups" if len(groups.kinds) > 1 else ""
    return Part(
        name="kv_cache",
        n_bytes=stage.need.n_bytes,
        basis=Basis.FORMULA,
        source=f"{_CODE}/v1/core/kv_cache_utils.py",
        detail=(
            f"{per_replica(ask):,} × {stage.blocks - groups.state_blocks:,} blocks"
            f" × {groups.bytes_per_block:,} B{kinds}"
            f": blocks of {groups.block} tokens, {stage.need.bytes_per_token:,} B a token"
        ),
    )


def state_part(ask: Ask, stage: Stage) -> tuple[Part, ...]:
    """States come from the same pool of blocks, and take a whole one each, however small they are."""
    groups = stage.groups
    if not groups.state_blocks:
        return ()
    return (
        Part(
            name="recurrent_state",
            n_bytes=per_replica(ask) * groups.state_blocks * groups.bytes_per_block,
            basis=Basis.FORMULA,
            source=f"{_CODE}/v1/kv_cache_interface.py",
            detail=f"{per_replica(ask):,} × {groups.state_blocks} blocks × {groups.bytes_per_block:,} B",
        ),
    )


def buffers_part(ask: Ask, stage: Stage, setting: Setting) -> Part:
    """Rotary tables, MLA's copies, and what the allocator rounds up when it holds the weights: logged as weights."""
    rotary, absorbed = rotary_bytes(ask, setting), absorbed_bytes(ask, setting)
    rounding = rounding_bytes(ask.architecture, ask.precision, ask.layout)
    found = rotary + absorbed + rounding
    copies = f" + kv_b_proj in 16 bits {absorbed:,} B" if absorbed else ""
    return Part(
        name="buffers",
        n_bytes=found,
        basis=Basis.FORMULA,
        source="https://github.com/pytorch/pytorch/blob/main/c10/cuda/CUDACachingAllocator.cpp",
        detail=f"rotary tables and allocator rounding: {rotary:,} B + {rounding:,} B{copies}; vLLM logs"
        f" {format_gib(stage.weights_bytes + found)} GiB for the weights",
        low_bytes=0,
        high_bytes=found + stage.weights_bytes * _more_per_mille(ask) // 1000,
    )


def _more_per_mille(ask: Ask) -> int:
    """What loading leaves behind: up to 0.5 % more was logged for 16-bit weights, 0.8 % for those packed to 4 bits."""
    name = ask.precision.name
    return 5 if name in DTYPES or "8" in name else 10


def profile_peak(ask: Ask, setting: Setting) -> Peak:
    """The peak of the profile run with this version's settings."""
    device, eye, era = ask.device, ask.architecture.eye, setting.profile["eyes"]
    requests, v0 = setting.requests, bool(setting.profile.get("v0"))
    if v0 and eye is not None:
        requests = profiled_requests(eye, tokens=setting.tokens, requests=requests, era=era)
    run = Run(
        tokens=setting.tokens,
        requests=requests,
        vocabulary=padded_vocabulary(ask.architecture.vocabulary, VOCABULARY_MULTIPLE),
        element_bytes=ask.precision.element_bytes,
        tp=ask.layout.tp,
        context=ask.workload.context,
        block=setting.block,
        sampler=setting.profile["sampler"],
        capability=device.compute_capability if device else None,
        multiprocessors=device.multiprocessors if device else None,
        v0=v0,
        reserved=bool(setting.profile.get("reserved")),
        eyes=era,
    )
    return activation_peak(ask.architecture, run)


def activation_part(ask: Ask, setting: Setting, peak: Peak) -> Part:
    """The peak of the profile run, with the error of its rule."""
    error = _FORWARD_ERROR
    if ask.architecture.eye is not None:
        error = _EYE_ERROR if setting.profile["eyes"] == "heads" else _EARLY_EYE_ERROR
    return Part(
        name="activations",
        n_bytes=peak.n_bytes,
        basis=Basis.FORMULA,
        source=f"{_CODE}/v1/worker/gpu_worker.py",
        detail=peak.detail,
        low_bytes=int(peak.n_bytes * (1 - error)),
        high_bytes=int(peak.n_bytes * (1 + error)),
    )


def graphs_part(ask: Ask, setting: Setting) -> Part:
    """CUDA graphs: estimated inside the budget from 0.20 on, captured beyond it before."""
    if ask.options.enforce_eager:
        return Part(
            name="cuda_graphs",
            n_bytes=0,
            basis=Basis.FORMULA,
            source=f"{_CODE}/config/model.py",
            detail="none: eager",
        )
    low, most, high = band(setting.profile["graphs"])
    # Graphs are captured for batches of up to 2 · max_num_seqs, and no more than 512.
    best = low + (most - low) * min(setting.requests, _MOST_CAPTURED) // _MOST_CAPTURED
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


def non_torch_kind(*, tp: int, pp: int) -> str:
    """Which of a profile's figures holds for this many ranks."""
    return "non_torch_tp" if tp > 1 else "non_torch_pp" if pp > 1 else "non_torch_tp1"


def runtime_part(ask: Ask, setting: Setting) -> Part:
    """Memory outside torch, and the CUDA context that is gone before vLLM takes its budget."""
    # Ranks that share experts talk through NCCL as those that share matrices do.
    kind = non_torch_kind(tp=max(ask.layout.tp, ask.layout.expert_ranks), pp=ask.layout.pp)
    low, best, high = band(setting.profile[kind])
    capability = ask.device.compute_capability if ask.device else None
    before = capability is not None and capability[0] < _HOPPER and "context_before_9" in setting.profile
    context_low, context, context_high = band(setting.profile["context_before_9" if before else "context"])
    # 0.8 took all that was not torch's for its own, by the driver's count (v1/worker/gpu_worker.py).
    inside = bool(setting.profile.get("context_in_budget"))
    where = "both in the budget" if inside else "the context is gone before vLLM takes its budget"
    return Part(
        name="runtime",
        n_bytes=best + context,
        basis=Basis.MEASURED,
        source=setting.profile["source"],
        detail=f"non-torch {format_gib(best)} GiB + CUDA context {format_gib(context)} GiB: {where}",
        low_bytes=low + context_low,
        high_bytes=high + context_high,
        outside_bytes=0 if inside else context,
    )
