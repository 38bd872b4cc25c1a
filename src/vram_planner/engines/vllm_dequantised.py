"""What vLLM's kernels for 4-bit matrices keep beside their result while a dense feed-forward block runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture.attention import FullAttention, SlidingWindow
from vram_planner.architecture.feed_forward import DenseMLP
from vram_planner.units import MIB, ceil_div, round_up

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.engines.base import Ask
    from vram_planner.engines.vllm_profile_run import Run

_AMPERE: Final = (8, 0)
_TWO_BYTES, _FOUR_BYTES = 2, 4
_MARLIN_ROWS = 1024
# torch's pool of streams of one priority (c10/cuda/CUDAStream.cpp, kStreamsPerPool).
_STREAMS = 32
_BUNDLE, _LARGE, _SMALL = 20 * MIB, 10 * MIB, MIB


def matrices_of(ask: Ask) -> str:
    """The kernel of 4-bit matrices: "bnb", "awq" where Marlin does not run (below 8.0), else "marlin"; "" for others."""
    name = ask.precision.name
    capability = ask.device.compute_capability if ask.device else None
    if name.startswith("nf4"):
        return "bnb"
    if name.startswith(("awq", "gptq", "w4a16")):
        old = capability is not None and capability < _AMPERE
        return "marlin" if not old else "awq" if name.startswith("awq") else ""
    return ""


def is_half(ask: Ask) -> bool:
    """Whether activations are float16: asked for, stored so, or on a card that has no bfloat16."""
    capability = ask.device.compute_capability if ask.device else None
    if capability is not None and capability < _AMPERE:
        return True
    return getattr(getattr(ask.precision, "base", None), "name", "") == "float16"


def matmul_bytes(block: DenseMLP, copies: int, run: Run) -> int:
    """
    The most alive while gate and up are multiplied, `copies` of the hidden states beside.

        bitsandbytes  T·b·(g·I + c·H) + one shard's weights in 16 bits; of float16 4·I in turn: it multiplies in bfloat16
        AWQ           T·b·((g − 1)·I + c·H) + both shards' weights in 16 bits, from 256 tokens on
        Marlin        T·b·((g − 1)·I + c·H) + 1,024 rows of the result in float32 (up to 0.8)

    Where what is reserved counts (up to 0.6.3) blocks of sizes that none of the others has come on top.
    Source: layers/quantization/bitsandbytes.py (_apply_4bit_weight), awq.py (FP16_MATMUL_HEURISTIC_CONDITION), and
    csrc/quantization/gptq_marlin of 0.8.3 (c_tmp).
    """
    unit, width = run.tokens * run.element_bytes, ceil_div(block.intermediate, run.tp)
    shards = 2 if block.gated else 1
    beside = copies * block.hidden * unit
    shard = width * block.hidden * _TWO_BYTES
    if run.matrices == "bnb":
        if run.reserved:
            halves = (2 * shards * width + block.hidden) * unit if run.half else shards * width * unit
            return halves + width * unit + shard + beside
        turned = 2 * shards * width * unit if run.half else 0
        return max((shards + 1) * width * unit + shard, turned) + beside + run.half * block.hidden * unit
    if run.matrices == "awq":
        return shards * (width * unit + shard) + beside
    if run.matrices == "marlin" and run.reduces:
        rows = min(run.tokens, _MARLIN_ROWS)
        return shards * width * (unit + rows * _FOUR_BYTES) + beside
    return 0


def stream_bytes(architecture: Architecture, run: Run) -> int:
    """
    What xformers' attention leaves reserved where what is reserved counts: up to 0.6.3, on cards before Ampere.

    Grouped queries run each KV head but the first on a stream of its own, taken in turn from torch's 32, and the allocator
    keeps a pool for each stream: streams × the segment of T · queries a head · d · b.
    Source: xformers 0.0.26 ops/fmha/cutlass.py, FwOp.apply; vLLM 0.5.0 attention/backends/xformers.py and
    worker/worker.py; PyTorch CUDACachingAllocator.cpp, get_allocation_size.
    """
    if not run.reserved or run.capability is None or run.capability >= _AMPERE:
        return 0
    calls = segment = 0
    for layer, count in architecture.groups:
        mixer = layer.mixer.inner if isinstance(layer.mixer, SlidingWindow) else layer.mixer
        if not isinstance(mixer, FullAttention):
            continue
        heads = mixer.cache.heads_on_rank(run.tp)
        queries = ceil_div(mixer.n_heads, run.tp) // heads
        if queries > 1:
            calls += count * (heads - 1)
            segment = max(segment, _segment(run.tokens * queries * mixer.head_dim * run.element_bytes))
    return min(calls, _STREAMS) * segment


def _segment(n_bytes: int) -> int:
    """What the caching allocator takes from the driver for one block of this size."""
    if n_bytes <= _SMALL:
        return 2 * MIB
    return _BUNDLE if n_bytes < _LARGE else round_up(n_bytes, 2 * MIB)


def dense_matmul_bytes(architecture: Architecture, copies: int, run: Run) -> int:
    """`matmul_bytes` of the widest dense block."""
    blocks = (layer.feed_forward for layer, _ in architecture.groups)
    return max(
        (matmul_bytes(block, copies, run) for block in blocks if isinstance(block, DenseMLP)), default=0
    )
