"""
What one layer keeps alive in vLLM's profile run: a forward pass of T tokens, above the weights.

Symbols as in `vllm_profile_run`. Beside what the operators must hold, Python's frames hold what they named and use no
more; where a version runs the modules eagerly (V0, --enforce-eager) that is what the card holds, and a compiled graph
holds less. Source: vLLM 0.32 model_executor/models; its own modules run on meta tensors agree within the error the tests
state. What a compiled graph must hold is `graph_numbers`: the start-up logs lie between the two.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from vram_planner.architecture.attention import FullAttention, Latent, SlidingWindow
from vram_planner.architecture.feed_forward import DenseMLP, MixtureOfExperts
from vram_planner.engines.vllm_dequantised import dense_matmul_bytes, stream_bytes
from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.model import Architecture, Layer
    from vram_planner.engines.vllm_profile_run import Run

_LONGEST_MLA_DUMMY = 65_536
_MLA_BLOCKS = 4

# Modules whose feed-forward names the gate's and the up projection's output, and so holds it until it returns.
_NAMED_GATE_UP: Final = frozenset(
    {
        "cohere", "cohere2", "exaone", "exaone4", "gemma", "gemma2", "gemma3", "gemma3_text", "gemma4", "gemma4_text",
        "granite", "granitemoehybrid", "internlm2", "minicpm", "minicpm3", "nemotron", "olmo_hybrid", "orion", "qwen2", "qwen2_5_vl",
        "qwen2_vl", "qwen3", "qwen3_vl", "solar", "stablelm",
    }
)  # fmt: skip
# Modules that add the residual themselves, after a norm or a factor, and hold one copy less before the block.
_PLAIN_RESIDUAL: Final = frozenset({"exaone4", "falcon", "granite", "minicpm", "minicpm3", "olmo2", "olmo3"})
# Attention and feed-forward side by side: what the all-reduce returns takes the place of one's input; or not (Falcon).
_PARALLEL: Final = frozenset({"cohere", "cohere2"})
_PARALLEL_BESIDE: Final = frozenset({"falcon"})
# In vLLM 0.32 these have latent attention in the configuration alone: minicpm3.py unpacks keys and values.
_UNPACKED_LATENT: Final = frozenset({"minicpm3"})


def moe_workspace_bytes(architecture: Architecture, run: Run) -> int:
    """Triton's fused MoE keeps T·k·b·(max(Ie, H) + max(2·Ie, H)) alive from the first step on; padded sizes on Marlin."""
    return max((_workspace(layer, run) for layer, _ in architecture.groups), default=0)


def _workspace(layer: Layer, run: Run) -> int:
    block = layer.feed_forward
    if not isinstance(block, MixtureOfExperts) or run.experts == "swizzled":
        return 0
    width, hidden = ceil_div(block.expert_intermediate, run.tp), block.latent or block.hidden
    if run.experts == "marlin":
        width, hidden = -(-width // 128) * 128, -(-hidden // 256) * 256
    tokens = run.tokens * run.gathered
    return (
        (min(tokens, run.chunk) if run.chunk else tokens)
        * block.top_k
        * run.element_bytes
        * (max(width, hidden) + max((2 if block.gated else 1) * width, hidden))
    )


def forward_bytes(architecture: Architecture, run: Run) -> int:
    """
    The most that one layer keeps alive during a forward pass of T tokens, above the weights.

    feed-forward  T·b·(g·I/tp + 4·H), g 3 with a gate and 2 without; one H less where the module adds the residual itself,
                  one more where it holds the gate's output (and one for the all-reduce of tp)
    experts       W + T·b·(5·H + 3·Is/tp), Is the shared expert's width, or 7·H after both and 8·H under tp
    attention     W + T·b·(5·H + qkv + q), one H more for the all-reduce under tp, q + k more for norms on them
    MLA           W + dummy + T·b·(5·H + latents)
    Mamba         W + T·b·(3·I + 6·H), of Mamba-2 the projection + 2·I + 4·H, 3·I more where its norm works in groups,
                  2·H more under tp
    gated delta   W + T·b·(6·A + 7·V + 5·H), A and V the widths of keys and values, one H more under tp

    Layers before the first with experts run before W is there.
    """
    unit, most, workspace = run.tokens * run.element_bytes, 0, 0
    seen: set[tuple[int, bool]] = set()
    for layer in architecture.layers:
        workspace = max(workspace, _workspace(layer, run))
        if (key := (id(layer), bool(workspace))) in seen:
            continue
        seen.add(key)
        latent = architecture.model_type not in _UNPACKED_LATENT
        numbers, is_latent = _attention_stage(layer, architecture.hidden, run)
        dummy = _mla_dummy_bytes(layer, run) if latent and is_latent else 0
        beside = workspace + _gathered(layer, run)
        most = max(
            most,
            beside + _feed_forward_stage(layer, architecture, run) * unit,
            beside + numbers * unit + dummy,
            beside + _experts_bytes(layer, run),
        )
    copies = _copies(architecture.model_type, replace(run, reserved=True) if run.v0 else run)
    return max(most, workspace + dense_matmul_bytes(architecture, copies, run)) + stream_bytes(
        architecture, run
    )


def _experts_bytes(layer: Layer, run: Run) -> int:
    """While the experts run: 5·H, and what FP8 makes of their input and of what is between their matrices, scales too."""
    block = layer.feed_forward
    if not isinstance(block, MixtureOfExperts):
        return 0
    width, tokens = ceil_div(block.expert_intermediate, run.tp), run.tokens * run.gathered
    beside = 5 * block.hidden * run.tokens * run.element_bytes
    at_once = min(tokens, run.chunk) if run.chunk else tokens
    if run.experts == "swizzled":
        return beside + at_once * block.top_k * (width + block.hidden) * run.element_bytes
    return beside + run.bytes_experts * at_once * (block.hidden + block.top_k * width) * 33 // 32


def _gathered(layer: Layer, run: Run) -> int:
    """What a rank of experts gets of the other replicas' tokens: their hidden states."""
    if run.gathered == 1 or not isinstance(layer.feed_forward, MixtureOfExperts):
        return 0
    return run.tokens * run.gathered * layer.feed_forward.hidden * run.element_bytes


def _feed_forward_stage(layer: Layer, architecture: Architecture, run: Run) -> int:
    block, hidden, family = layer.feed_forward, architecture.hidden, architecture.model_type
    if isinstance(block, DenseMLP):
        copies = _copies(family, run)
        kept = _projections(layer, run) if run.reserved else 0
        return (3 if block.gated else 2) * ceil_div(block.intermediate, run.tp) + copies * hidden + kept
    shared = block.shared if isinstance(block, MixtureOfExperts) else None
    if shared is None:
        return 5 * hidden
    return max(5 * hidden + 3 * ceil_div(shared.intermediate, run.tp), (7 + (run.tp > 1)) * hidden)


def _copies(family: str, run: Run) -> int:
    """How many times the hidden states are alive beside a dense feed-forward block."""
    copies, named = 3 if family in _PLAIN_RESIDUAL else 4, family in _NAMED_GATE_UP
    if not run.v0:
        copies += run.tp > 1 and family in _PARALLEL_BESIDE
        return copies + named * (1 + (run.tp > 1 and family not in _PARALLEL))
    # Its norms worked in place, but its all-reduce did not: 2.07 and 2.99 GiB logged for 20,000 and 29,000 tokens of
    # Llama-3.1-8B, 0.74 for 10,000 of Qwen3-4B, which names the gate's output; the 70B at tp 2 takes 2 · H more, and 3 in
    # later versions. Where what was reserved counted, the down projection found a block to reuse.
    return copies + (named and not run.reserved) + (-1 if run.tp == 1 else 1 if run.reserved else 2)


def graph_numbers(architecture: Architecture, run: Run) -> int:
    """
    Numbers a token that a compiled graph of a dense model must hold at its peak: g·I/tp + 2·H + q/tp.

    The residual, attention's output, which the caller holds, and the new residual, beside the gate's, the up projection's
    and the activation's output. 0 for a model with other layers.
    """
    most = 0
    for layer, _ in architecture.groups:
        block, mixer = layer.feed_forward, layer.mixer
        inner = mixer.inner if isinstance(mixer, SlidingWindow) else mixer
        if not isinstance(block, DenseMLP) or not isinstance(inner, FullAttention):
            return 0
        queries = ceil_div(inner.n_heads, run.tp) * inner.head_dim
        inside = (3 if block.gated else 2) * ceil_div(block.intermediate, run.tp)
        most = max(most, inside + 2 * architecture.hidden + queries)
    return most


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
        return max(5 * hidden, _recurrent_stage(mixer, hidden, run) if mixer.state is not None else 0), False
    keys = inner.cache.heads_on_rank(run.tp) * inner.head_dim
    queries = ceil_div(inner.n_heads, run.tp) * inner.head_dim
    norms = queries + keys if inner.qk_norm else 0
    return (5 + (run.tp > 1)) * hidden + 2 * queries + 2 * keys + norms, False


def _recurrent_stage(mixer: Mixer, hidden: int, run: Run) -> int:
    """
    Source: mamba/mamba_mixer.py, mamba_mixer2.py (Mixer2RMSNormGated: two copies in float32 with several groups), gdn.

    The state updates themselves do not run: the profile run has no requests.
    """
    from vram_planner.architecture.recurrent import (  # noqa: PLC0415  a fortieth of a cold start
        GatedDeltaNet,
        Mamba,
        Mamba2,
    )

    if isinstance(mixer, Mamba):
        return 3 * ceil_div(mixer.inner, run.tp) + 6 * hidden
    if isinstance(mixer, Mamba2):
        inner, groups = ceil_div(mixer.inner, run.tp), max(1, mixer.groups // run.tp)
        projected = 2 * inner + 2 * groups * mixer.state_size + mixer.heads // run.tp
        return projected + (5 if groups > 1 else 2) * inner + (4 + 2 * (run.tp > 1)) * hidden
    if isinstance(mixer, GatedDeltaNet):
        keys = ceil_div(mixer.key_heads * mixer.key_dim, run.tp)
        values = ceil_div(mixer.value_heads * mixer.value_dim, run.tp)
        return 6 * keys + 7 * values + (5 + (run.tp > 1)) * hidden
    return 0


def _query_width(mixer: Latent, run: Run) -> int:
    return ceil_div(mixer.n_heads, run.tp) * (mixer.nope_dim + mixer.rope_dim)


def _mla_dummy_bytes(layer: Layer, run: Run) -> int:
    """R·heads/tp·(nope + v)·b with R = min(max(8·L, 4·S·block), 65,536): what chunked prefill may unpack."""
    mixer = layer.mixer
    if not isinstance(mixer, Latent):
        return 0
    rows = min(max(8 * run.context, _MLA_BLOCKS * run.requests * run.block), _LONGEST_MLA_DUMMY)
    return rows * ceil_div(mixer.n_heads, run.tp) * (mixer.nope_dim + mixer.value_dim) * run.element_bytes
