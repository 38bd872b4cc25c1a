"""What builds of llama.cpp and releases of transformers do otherwise, as far as speed goes: which kernels run, and how."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.architecture.weight import Weight
    from vram_planner.engines.base import Ask
    from vram_planner.hardware_profiles import Gpu
    from vram_planner.planning.performance_work import Work

# Kernels that a stream takes before a launch waits, as measured: https://forums.developer.nvidia.com/t/68937.
_LAUNCHES = 1000
# Inputs of a graph exist so often: ggml-backend.cpp, GGML_SCHED_MAX_COPIES.
_COPIES = 4.0
_STACK = 3  # dimensions of the experts of a layer


def of_the_build(work: Work, ask: Ask, gpu: Gpu, span: Mapping[str, Any], *, quantised: bool) -> Work:
    """
    The work with what a build does beside it.

    Without flash attention (off by default before https://github.com/ggml-org/llama.cpp/pull/15434, or --no-flash-attn)
    each query head's scores are written out and read again: as halves by cuBLAS, as floats for the softmax and back
    (ggml_cuda_mul_mat_batched_cublas). Before https://github.com/ggml-org/llama.cpp/pull/8075 a quantised matrix is
    unpacked to halves for more than 32 tokens (ggml_cuda_op_mul_mat_cublas); Metal unpacks inside its kernels.
    """
    fused = bool(span.get("flash", True)) if ask.options.flash_attn is None else ask.options.flash_attn
    heads = sum(
        layer.mixer.n_heads * count
        for layer, count in ask.architecture.groups
        if layer.mixer.cache is not None
    )
    unpacked = 0.0
    if quantised and unpacks(span, gpu):
        routed = sum(each.n_bytes for each in work.experts)
        share = max((each.of / each.used for each in work.experts), default=1.0)
        # Two operations an element, two bytes a half.
        unpacked = work.dense_bytes + routed + work.matrix_flops + work.expert_flops * (share - 1)
    ends = sum(
        (weight.rows + weight.columns) * _used(weight, layer.feed_forward.active_share[0]) * count
        for layer, count in ask.architecture.groups
        for weight in layer.weights
        if weight.rows > 1
    )
    return replace(
        work,
        ends=ends,
        score_heads=0.0 if fused else float(heads),
        unpacked_bytes=unpacked,
        expert_tile=float(span.get("expert_tile", 0)),
    )


def _used(weight: Weight, experts: int) -> int:
    return experts if len(weight.shape) == _STACK else 1


def unpacks(span: Mapping[str, Any], gpu: Gpu) -> bool:
    """Whether prompts multiply halves that quantised weights are unpacked to."""
    return bool(span.get("unpacks")) and gpu.vendor.lower() != "apple"


def of_the_modules(work: Work, ask: Ask, span: Mapping[str, Any]) -> Work:
    """
    The work with the cache that transformers reads: before 4.54 each query head's own copy of keys and values.

    `repeat_kv` wrote the copies out at each step until scaled_dot_product_attention was told to share them:
    https://github.com/huggingface/transformers/pull/39412. So did the flash attention of Qwen2 and Mistral before 4.48, that of Llama did not.
    """
    if not span.get("repeats"):
        return work
    heads = [
        (layer.mixer.n_heads * count, layer.mixer.cache.n_heads * count)
        for layer, count in ask.architecture.groups
        if layer.mixer.cache is not None and not layer.mixer.cache.latent
    ]
    times = sum(queries for queries, _ in heads) / (sum(kept for _, kept in heads) or 1) or 1.0
    return replace(work, kept=tuple(kept._replace(n_bytes=kept.n_bytes * times) for kept in work.kept))


def queued(layers: int, stages: int, span: Mapping[str, Any], *, quantised: bool) -> float:
    """
    Micro-batches whose launches a stage's queue takes: launches / (kernels a layer · layers of a stage), 4 at most.

    The kernels of a layer are counted in the source, see `kernels` in the file of constants.
    """
    kernels = span["kernels"]["quantised" if quantised else "16bit"]
    return float(min(_COPIES, _LAUNCHES / (kernels * layers / stages)))
