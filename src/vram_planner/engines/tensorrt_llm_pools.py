"""TensorRT-LLM's pools beside keys and values: an indexer's keys, slots of recurrent states; and what it does not run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.parallel import stage_layers
from vram_planner.engines.layouts import per_replica
from vram_planner.errors import UnsupportedArchitectureError
from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from vram_planner.architecture.cache import StateCache
    from vram_planner.engines.base import Ask

MAMBA_SOURCE = (
    "https://github.com/NVIDIA/TensorRT-LLM/blob/00bce92cbb90929bc2357a7d5855858604e1ac7e"
    "/tensorrt_llm/_torch/pyexecutor/mamba_cache_manager.py"
)
SPARSE_BLOCK = 64  # "tokens_per_block must be set to 64 for DeepSeek v3.2", DSACacheManager of 1.1 and 1.2
_SCALED, _SCALE_BYTES = 128, 4
_FLOAT32_BYTES = 4
_STATE_KINDS = frozenset({"mamba2", "gated_delta", "kimi_delta"})


def check_kinds(ask: Ask) -> None:
    """
    Refuse, with the engine's reason, what its PyTorch backend does not run.

    Source: modeling_mllama.py, MllamaTextModel ("Cross-attention is not supported yet"); mamba_cache_manager.py,
    whose states have heads and a matrix each.
    """
    kinds = ask.architecture.kinds
    if "cross" in kinds:
        raise UnsupportedArchitectureError(
            "TensorRT-LLM leaves out cross-attention layers: its Mllama answers text alone",
            hint="try --engine sglang",
        )
    if "compressed" in kinds or (ask.architecture.indexers and not _latent(ask)):
        raise UnsupportedArchitectureError(
            f"TensorRT-LLM's cache manager for {ask.architecture.model_type} is not modelled",
            hint="try --engine vllm or --engine sglang",
        )
    strange = sorted({state.kind for state, _ in ask.architecture.states} - _STATE_KINDS)
    if strange:
        raise UnsupportedArchitectureError(
            f"TensorRT-LLM keeps no states of the kind {', '.join(strange)}", hint="try --engine vllm"
        )


def _latent(ask: Ask) -> bool:
    return all(cache.latent for cache, _ in ask.architecture.caches)


def indexer_bytes(ask: Ask) -> int:
    """
    Bytes that a token adds to the indexer's pool on the fullest stage: layers that choose · (d + d/128 · 4).

    FP8 keys with a float32 scale for each 128, whatever the cache's own type; a layer that takes over another's choice
    has none. Source: DSACacheManager.get_cache_bytes_per_token, attention_backend/sparse/dsa.
    Leaves out: indexer_k_dtype fp4, which halves the keys.
    """
    return sum(
        (cache.key_dim + cache.key_dim // _SCALED * _SCALE_BYTES) * max(stage_layers(count, ask.layout.pp))
        for cache, count in ask.architecture.indexers
    )


def state_bytes(state: StateCache, ask: Ask) -> int:
    """
    Bytes of one layer's state of one sequence: conv channels/tp · (kernel − 1) · b + state/tp · (b, or 4 for float32).

    Source: PythonMambaCacheManager.__init__, mamba_cache_manager.py.
    """
    tp, unit = ask.layout.attention_tp, ask.precision.element_bytes
    wide = _FLOAT32_BYTES if state.float32_state else unit
    return (
        ceil_div(state.conv_channels, tp) * state.conv_tokens * unit
        + ceil_div(state.state_elements, tp) * wide
    )


def slot_bytes(ask: Ask) -> int:
    """All layers' states of one sequence on the fullest stage."""
    return sum(
        state_bytes(state, ask) * max(stage_layers(count, ask.layout.pp))
        for state, count in ask.architecture.states
    )


def batch_of(ask: Ask) -> int | None:
    """
    `max_batch_size` of a model with states, for which slots are allocated: as asked, or the requests of the workload.

    The engine's own default of 2048 would take gigabytes for idle slots, so the launch command sets it.
    """
    if not ask.architecture.states:
        return None
    return ask.options.max_num_seqs or per_replica(ask)


def slots_of(batch: int, ask: Ask) -> int:
    """
    Slots for so many requests: one each for every pipeline stage's batch, and one for padding of CUDA graphs.

    Source: _calculate_max_num_blocks_for_linear_attention, resource_manager.py.
    Leaves out: snapshots of states for block reuse.
    """
    return slots_for(batch, ask.layout.pp)


def slots_for(batch: int, stages: int) -> int:
    """The same by the number of stages."""
    return batch * stages + 1
