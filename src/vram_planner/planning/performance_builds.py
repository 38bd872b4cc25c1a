"""What builds of llama.cpp and releases of transformers do otherwise, as far as speed goes: which kernels run, and how."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from vram_planner.architecture.precision import Place
from vram_planner.engines.memo import once
from vram_planner.planning.performance_constants import span_of
from vram_planner.planning.performance_work import work_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.parallel import Layout
    from vram_planner.architecture.precision import Precision
    from vram_planner.architecture.weight import Weight
    from vram_planner.hardware_profiles import Gpu
    from vram_planner.planning.performance_work import Work

# Kernels that a stream takes before a launch waits, as measured: https://forums.developer.nvidia.com/t/68937.
_LAUNCHES = 1000
# Inputs of a graph exist so often: ggml-backend.cpp, GGML_SCHED_MAX_COPIES.
_COPIES = 4.0
_STACK = 3  # dimensions of the experts of a layer


class Asked(NamedTuple):
    """
    How a model is run: `kv_bytes` a cached number, `host_bytes` of weights on the host, whole layers or experts alone.

    `flash` is --flash-attn where it was said, `unpacks` whether prompts multiply unpacked weights (`unpacks`).
    """

    layout: Layout
    kv_bytes: float
    host_bytes: int
    by_layers: bool
    engine: str
    version: str | None
    flash: bool | None
    unpacks: bool


@once
def work_on(architecture: Architecture, precision: Precision, asked: Asked) -> Work:
    """What a step moves and computes on one rank, by the engine's build and with what it left on the host."""
    work = work_of(architecture, precision, asked.layout, asked.kv_bytes)
    if asked.engine == "llama.cpp":
        work = of_the_build(work, architecture, asked)
    elif asked.engine == "transformers":
        work = of_the_modules(work, architecture, asked)
    there = float(asked.host_bytes)
    if there and asked.engine == "llama.cpp":
        there = _beside_embedding(architecture, precision, asked.host_bytes)
    return _on_the_host(work, there, by_layers=asked.by_layers) if there else work


def _on_the_host(work: Work, there: float, *, by_layers: bool) -> Work:
    """The same with weights on the host: experts alone (--n-cpu-moe and kin) or whole layers (--ngl, --cpu-offload)."""
    experts = sum(each.n_bytes for each in work.experts)
    layers = by_layers or not experts
    share = there / (work.dense_bytes + experts) if layers else there / experts
    share = min(1.0, share)
    beside = work.dense_bytes * share if layers else max(0.0, there - experts)
    return replace(
        work,
        host_bytes=beside,
        host_experts=share if experts else 0.0,
        dense_bytes=work.dense_bytes - beside,
    )


def _beside_embedding(architecture: Architecture, precision: Precision, host_bytes: int) -> float:
    """Weights that llama.cpp left on the host, but for the input embedding, which is only looked up."""
    place = Place(architecture, None)
    table = sum(precision.weight_bytes(weight, place) for weight in architecture.embedding)
    return float(max(0, host_bytes - table))


def of_the_build(work: Work, architecture: Architecture, asked: Asked) -> Work:
    """
    The work with what a build does beside it.

    Without flash attention (off by default before https://github.com/ggml-org/llama.cpp/pull/15434, or --no-flash-attn)
    each query head's scores are written out and read again: as halves by cuBLAS, as floats for the softmax and back
    (ggml_cuda_mul_mat_batched_cublas). Before https://github.com/ggml-org/llama.cpp/pull/8075 a quantised matrix is
    unpacked to halves for more than 32 tokens (ggml_cuda_op_mul_mat_cublas); Metal unpacks inside its kernels.
    """
    span = span_of(asked.engine, asked.version)
    fused = bool(span.get("flash", True)) if asked.flash is None else asked.flash
    heads = sum(
        layer.mixer.n_heads * count for layer, count in architecture.groups if layer.mixer.cache is not None
    )
    unpacked = 0.0
    if asked.unpacks:
        routed = sum(each.n_bytes for each in work.experts)
        share = max((each.of / each.used for each in work.experts), default=1.0)
        # Two operations an element, two bytes a half.
        unpacked = work.dense_bytes + routed + work.matrix_flops + work.expert_flops * (share - 1)
    ends = sum(
        (weight.rows + weight.columns) * _used(weight, layer.feed_forward.active_share[0]) * count
        for layer, count in architecture.groups
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


def of_the_modules(work: Work, architecture: Architecture, asked: Asked) -> Work:
    """
    The work with the cache that transformers reads: before 4.54 each query head's own copy of keys and values.

    `repeat_kv` wrote the copies out at each step until scaled_dot_product_attention was told to share them:
    https://github.com/huggingface/transformers/pull/39412. So did the flash attention of Qwen2 and Mistral before 4.48, that of Llama did not.
    """
    if not span_of(asked.engine, asked.version).get("repeats"):
        return work
    heads = [
        (layer.mixer.n_heads * count, layer.mixer.cache.n_heads * count)
        for layer, count in architecture.groups
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
