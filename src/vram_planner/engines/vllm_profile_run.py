"""
What vLLM's profile run keeps alive at its peak: a forward pass of T tokens, then a sampler for S requests.

Symbols in bytes and tokens: T max_num_batched_tokens, S min(max_num_seqs, T), V vocabulary, H hidden size,
I intermediate size, k experts a token, Ie expert width on a rank, b bytes of a number.
Source: vLLM 0.32 v1/worker/gpu_model_runner.py (_dummy_sampler_run), v1/worker/gpu/model_runner.py,
v1/sample/ops/topk_topp_sampler.py, fused_moe/experts/triton_moe.py (workspace_shapes), and
layers/attention/mla_attention.py; its own code run on meta tensors agrees within the error the tests state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vram_planner.engines.vllm_encoder import TOWER, Seen, see
from vram_planner.engines.vllm_forward import forward_bytes, graph_numbers, moe_workspace_bytes
from vram_planner.units import KIB, MIB, ceil_div

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture

# Bytes a (request, vocabulary entry) beside the logits when the sampler sorted, up to 0.16: logits in float32 (4),
# what sort returns (4 + 8), its int64 index (8), and CUB's second buffers of keys and values (4 + 8).
# Source: vLLM 0.8.3 v1/sample/ops/topk_topp_sampler.py; PyTorch aten/native/cuda/Sort.cu, segmented_sort_pairs.
_SORTING_SAMPLER = 4 + 4 + 8 + 8 + 4 + 8
_HOPPER = 9
_COMMON_MULTIPROCESSORS = 132


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Run:
    """
    The size of the profile run, and the rank that it runs on.

    `experts` names the kernel of MXFP4 experts: "marlin" pads them, "swizzled" (triton_kernels) needs no workspace.
    `gathered` is how many replicas' tokens a rank of experts gets, `chunk` how many go through the experts at once (0: all).
    `matrices` names the kernel of 4-bit matrices, `half` says that activations are float16, `reduces` that Marlin sums
    in float32, `bytes_experts` that experts are multiplied in FP8.
    """

    tokens: int
    requests: int
    vocabulary: int
    element_bytes: int
    tp: int
    context: int
    block: int
    sampler: str
    capability: tuple[int, int] | None
    multiprocessors: int | None
    v0: bool = False
    reserved: bool = False
    eyes: str = "heads"
    experts: str = ""
    gathered: int = 1
    chunk: int = 0
    matrices: str = ""
    half: bool = False
    reduces: bool = False
    bytes_experts: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Peak:
    """
    The peak above the weights in bytes, which stage sets it, and its formula with numbers.

    `low_bytes` is what it is at least: a compiled graph's own needs, and up to 0.16 a sampler that does not sort because
    FlashInfer is installed, as in the project's images.
    """

    n_bytes: int
    stage: str
    detail: str
    low_bytes: int


def cublas_workspace_bytes(capability: tuple[int, int] | None) -> int:
    """32 MiB on compute capability 9 and up, 8.125 MiB below (PyTorch CUDABlas.cpp, chosen workspace size)."""
    return 32 * MIB if capability is None or capability[0] >= _HOPPER else 8 * MIB + 128 * KIB


def sampler_bytes(architecture: Architecture, run: Run, kept_bytes: int | None = None) -> int:
    """
    What the sampler keeps alive at its own peak, by version.

    sorted (to 0.16)  S·V·(b + 36) + T·H·b + 2·S·H·b
    v1 (0.17 on)      S·V·(b + 12) + min(SMs, S)·V·4 + T·H·b + 2·S·H·b + W
    v2 (0.25 on)      S·V·b·(1; 2 for capped logits; 2 + 1/tp under tensor parallelism) + T·H·b + S·H·b + W

    and `kept_bytes` of pictures: where the tower's shapes are not known (None), T·b·(H + pixels) under v1.
    """
    table, hidden = run.requests * run.vocabulary, architecture.hidden
    workspace, b = moe_workspace_bytes(architecture, run), run.element_bytes
    states = run.tokens * hidden * b
    if run.sampler == "sorted":
        return table * (b + _SORTING_SAMPLER) + states + 2 * run.requests * hidden * b + (kept_bytes or 0)
    if run.sampler == "v1":
        rows = min(run.multiprocessors or _COMMON_MULTIPROCESSORS, run.requests)
        images = kept_bytes or 0
        if kept_bytes is None and architecture.pixels_per_token:
            images = run.tokens * (hidden + architecture.pixels_per_token) * b
        fixed = states + 2 * run.requests * hidden * b + workspace + images
        return table * (b + 12) + rows * run.vocabulary * 4 + fixed
    copies = table * b if run.tp == 1 else table * b * 2 + ceil_div(table * b, run.tp)
    copies += table * b if architecture.capped_logits and run.tp == 1 else 0
    return copies + states + run.requests * hidden * b + workspace + (kept_bytes or 0)


def activation_peak(architecture: Architecture, run: Run) -> Peak:
    """The cuBLAS workspace + the largest of vision tower, forward pass and sampler."""
    base = cublas_workspace_bytes(run.capability)
    seen = see(architecture.eye, run) if architecture.eye else Seen(0, 0, 0)
    kept = seen.kept_bytes if architecture.eye else None
    stages = {
        TOWER: (seen.tower_bytes, f"{seen.pictures:,} of the largest pictures"),
        "forward": (forward_bytes(architecture, run) + seen.kept_bytes, f"{run.tokens:,} tokens"),
        "sampler": (
            sampler_bytes(architecture, run, kept),
            f"{run.requests:,} × {run.vocabulary:,} logits",
        ),
    }
    stage = max(stages, key=lambda name: stages[name][0])
    most, of = stages[stage]
    graph = run.tokens * run.element_bytes * graph_numbers(architecture, run) + seen.kept_bytes
    least = max(
        seen.tower_bytes,
        min(graph or stages["forward"][0], stages["forward"][0]),
        _least_sampler(architecture, run, kept),
    )
    return Peak(
        base + most, stage, f"{stage} of {of}: {most:,} B + cuBLAS {base:,} B", base + min(least, most)
    )


def _least_sampler(architecture: Architecture, run: Run, kept: int | None) -> int:
    """
    From 0.8 to 0.16 V1's sampler left top-k and top-p to FlashInfer where that was installed, and did not sort.

    Source: vLLM 0.8.3 and 0.10.1 v1/sample/ops/topk_topp_sampler.py, TopKTopPSampler: logits, the same in float32,
    probabilities, FlashInfer's copy.
    """
    sorts = run.sampler == "sorted" and not run.v0
    without = replace(run, sampler="v1", multiprocessors=1) if sorts else run
    return sampler_bytes(architecture, without, kept)
