"""
What vLLM's profile run keeps alive at its peak: a forward pass of T tokens, then a sampler for S requests.

Symbols in bytes and tokens: T max_num_batched_tokens, S min(max_num_seqs, T), V vocabulary, H hidden size,
I intermediate size, k experts a token, Ie expert width on a rank, b bytes of a number.
Source: vLLM 0.32 v1/worker/gpu_model_runner.py (_dummy_sampler_run), v1/worker/gpu/model_runner.py,
v1/sample/ops/topk_topp_sampler.py, fused_moe/experts/triton_moe.py (workspace_shapes), and
layers/attention/mla_attention.py; its own code run on meta tensors agrees within the error the tests state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vram_planner.architecture.attention import FullAttention, Latent, SlidingWindow
from vram_planner.architecture.feed_forward import DenseMLP, MixtureOfExperts
from vram_planner.engines.vllm_encoder import TOWER, Seen, see
from vram_planner.units import KIB, MIB, ceil_div

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture, Layer

_LONGEST_MLA_DUMMY = 65_536
_MLA_BLOCKS = 4
# Bytes a (request, vocabulary entry) beside the logits when the sampler sorted, up to 0.16: logits in float32 (4),
# what sort returns (4 + 8), its int64 index (8), and CUB's second buffers of keys and values (4 + 8).
# Source: vLLM 0.8.3 v1/sample/ops/topk_topp_sampler.py; PyTorch aten/native/cuda/Sort.cu, segmented_sort_pairs.
_SORTING_SAMPLER = 4 + 4 + 8 + 8 + 4 + 8
_HOPPER = 9
_COMMON_MULTIPROCESSORS = 132


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Run:
    """The size of the profile run, and the rank that it runs on."""

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


@dataclass(frozen=True, eq=False, repr=False)
class Peak:
    """The peak above the weights in bytes, which stage sets it, and its formula with numbers."""

    n_bytes: int
    stage: str
    detail: str


def cublas_workspace_bytes(capability: tuple[int, int] | None) -> int:
    """32 MiB on compute capability 9 and up, 8.125 MiB below (PyTorch CUDABlas.cpp, chosen workspace size)."""
    return 32 * MIB if capability is None or capability[0] >= _HOPPER else 8 * MIB + 128 * KIB


def moe_workspace_bytes(architecture: Architecture, run: Run) -> int:
    """Triton's fused MoE keeps T·k·b·(max(Ie, H) + max(2·Ie, H)) alive from the first step on."""
    hidden, most = architecture.hidden, 0
    for layer, _ in architecture.groups:
        block = layer.feed_forward
        if isinstance(block, MixtureOfExperts):
            width = ceil_div(block.expert_intermediate, run.tp)
            most = max(
                most,
                run.tokens * block.top_k * run.element_bytes * (max(width, hidden) + max(2 * width, hidden)),
            )
    return most


def forward_bytes(architecture: Architecture, run: Run) -> int:
    """
    The most that one layer keeps alive during a forward pass of T tokens, above the weights.

    feed-forward  W + T·b·(3·I/tp + 4·H), 5·H with norms on both sides of a block (Gemma)
    experts       W + T·b·(5·H + 3·Is/tp), Is the shared expert's width
    attention     W + T·b·(5·H + qkv + q), one H more for the all-reduce under tp, q + k more for norms on heads
    MLA           W + dummy + T·b·(5·H + latents)
    """
    unit, workspace = run.tokens * run.element_bytes, moe_workspace_bytes(architecture, run)
    stages = (
        stage
        for layer, _ in architecture.groups
        for stage in (
            _feed_forward_stage(layer, architecture.hidden, run),
            _attention_stage(layer, architecture.hidden, run),
        )
    )
    dummy = max(_mla_dummy_bytes(layer, run) for layer, _ in architecture.groups)
    return workspace + max(unit * numbers + (dummy if latent else 0) for numbers, latent in stages)


def _feed_forward_stage(layer: Layer, hidden: int, run: Run) -> tuple[int, bool]:
    block = layer.feed_forward
    if isinstance(block, DenseMLP):
        copies = 5 if len(layer.norms) >= 4 else 4  # noqa: PLR2004  norms before and after both blocks
        if run.v0:
            # Its norms worked in place, but its all-reduce did not: 2.07 and 2.99 GiB logged for 20,000 and
            # 29,000 tokens of Llama-3.1-8B; the 70B at tp 2 takes 2 · H more, and 3 in later versions.
            copies += -1 if run.tp == 1 else 1 if run.reserved else 2
        kept = _projections(layer, run) if run.reserved else 0
        return 3 * ceil_div(block.intermediate, run.tp) + copies * hidden + kept, False
    shared = block.shared.intermediate if isinstance(block, MixtureOfExperts) and block.shared else 0
    return 5 * hidden + 3 * ceil_div(shared, run.tp), False


def _projections(layer: Layer, run: Run) -> int:
    """
    Up to 0.6.3 what torch had reserved counted, not what it had allocated: qkv's block is too small to serve again.

    Source: vLLM 0.5.4 worker/worker.py, determine_num_available_blocks: free memory before and after.
    """
    inner = layer.mixer.inner if isinstance(layer.mixer, SlidingWindow) else layer.mixer
    if not isinstance(inner, FullAttention):
        return 0
    keys = inner.cache.heads_on_rank(run.tp) * inner.head_dim
    return ceil_div(inner.n_heads, run.tp) * inner.head_dim + 2 * keys


def _attention_stage(layer: Layer, hidden: int, run: Run) -> tuple[int, bool]:
    mixer = layer.mixer
    if isinstance(mixer, Latent):
        query = mixer.q_rank if mixer.q_rank is not None else mixer.kv_rank + _query_width(mixer, run)
        return 5 * hidden + query + mixer.kv_rank + 2 * mixer.rope_dim, True
    inner = mixer.inner if isinstance(mixer, SlidingWindow) else mixer
    if not isinstance(inner, FullAttention):
        return 5 * hidden, False
    keys = inner.cache.heads_on_rank(run.tp) * inner.head_dim
    queries = ceil_div(inner.n_heads, run.tp) * inner.head_dim
    norms = queries + keys if inner.qk_norm == (inner.head_dim, inner.head_dim) else 0
    return (5 + (run.tp > 1)) * hidden + 2 * queries + 2 * keys + norms, False


def _query_width(mixer: Latent, run: Run) -> int:
    return ceil_div(mixer.n_heads, run.tp) * (mixer.nope_dim + mixer.rope_dim)


def _mla_dummy_bytes(layer: Layer, run: Run) -> int:
    """R·heads/tp·(nope + v)·b with R = min(max(8·L, 4·S·block), 65,536): what chunked prefill may unpack."""
    mixer = layer.mixer
    if not isinstance(mixer, Latent):
        return 0
    rows = min(max(8 * run.context, _MLA_BLOCKS * run.requests * run.block), _LONGEST_MLA_DUMMY)
    return rows * ceil_div(mixer.n_heads, run.tp) * (mixer.nope_dim + mixer.value_dim) * run.element_bytes


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
    return Peak(base + most, stage, f"{stage} of {of}: {most:,} B + cuBLAS {base:,} B")
