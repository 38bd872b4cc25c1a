"""vLLM's parts, each with its formula, its bounds and its source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.attention import Latent
from vram_planner.architecture.feed_forward import MixtureOfExperts
from vram_planner.architecture.parallel import (
    Layout,
    padded_vocabulary,
    rank_weight_bytes,
    stage_layers,
    table_bytes,
)
from vram_planner.architecture.precision import DTYPES, Place
from vram_planner.architecture.storage import MXFP4
from vram_planner.architecture.weight import Role
from vram_planner.basis import Basis, Part
from vram_planner.engines.allocator import allocated_bytes
from vram_planner.engines.layouts import per_replica
from vram_planner.engines.served import how_served
from vram_planner.engines.versions import band
from vram_planner.engines.vllm_profile_run import Peak, Run, activation_peak
from vram_planner.units import ceil_div, format_gib, round_up

if TYPE_CHECKING:
    from vram_planner.architecture.model import Layer
    from vram_planner.engines.base import Ask
    from vram_planner.engines.vllm_setting import Setting, Stage

VOCABULARY_MULTIPLE = 64
_CODE = "https://github.com/vllm-project/vllm/blob/v0.32.0/vllm"
_FORWARD_ERROR = 0.05
_SORTING_ERROR = 0.15
_MOST_CAPTURED = 256
# vLLM stores these as one tensor, which matters to the allocator's rounding alone.
_FUSED = {
    "q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up",
    "experts.gate": "experts.w13", "experts.up": "experts.w13",
    "q_a_proj": "qkv_a", "kv_a_proj_with_mqa": "qkv_a",
}  # fmt: skip


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


def buffers_part(ask: Ask, stage: Stage) -> Part:
    """Rotary tables, and what the allocator rounds up when it holds the weights: logged as weights."""
    rotary = _rotary_bytes(ask)
    rounding = _table_rounding(ask) + sum(
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
        pieces, of = weight.share(ask.layout.tp)
        if weight.role is Role.EXPERT and ask.layout.expert_parallel:
            pieces, of = ceil_div(weight.shape[0], ask.layout.expert_ranks), weight.shape[0]
        prefix, dot, last = weight.name.rpartition(".")
        key = _FUSED.get(weight.name) or f"{prefix}{dot}{_FUSED.get(last, last)}"
        sizes[key] = sizes.get(key, 0) + ask.precision.weight_bytes(weight, place) * pieces // of
    return sum(allocated_bytes(size) - size for size in sizes.values())


def _table_rounding(ask: Ask) -> int:
    tables = table_bytes(ask.architecture, ask.precision, ask.layout, VOCABULARY_MULTIPLE)
    return sum(allocated_bytes(size) - size for size in tables)


def profile_peak(ask: Ask, setting: Setting) -> Peak:
    """The peak of the profile run with this version's settings."""
    device = ask.device
    run = Run(
        tokens=setting.tokens,
        requests=setting.requests,
        vocabulary=padded_vocabulary(ask.architecture.vocabulary, VOCABULARY_MULTIPLE),
        element_bytes=ask.precision.element_bytes,
        tp=ask.layout.tp,
        context=ask.workload.context,
        block=setting.block,
        sampler=setting.profile["sampler"],
        capability=device.compute_capability if device else None,
        multiprocessors=device.multiprocessors if device else None,
        v0=bool(setting.profile.get("v0")),
    )
    return activation_peak(ask.architecture, run)


def activation_part(setting: Setting, peak: Peak) -> Part:
    """The peak of the profile run, with the error of its rule."""
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


def graphs_part(ask: Ask, setting: Setting) -> Part:
    """CUDA graphs: estimated inside the budget from 0.21 on, captured beyond it before."""
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


def runtime_part(ask: Ask, setting: Setting) -> Part:
    """Memory outside torch, and the CUDA context that is gone before vLLM takes its budget."""
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
