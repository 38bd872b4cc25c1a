"""SGLang's memory pool for LoRA adapters: buffers as large as the largest adapter, made before the token pool is sized."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.feed_forward import MixtureOfExperts
from vram_planner.architecture.parallel import padded_vocabulary
from vram_planner.architecture.weight import Role
from vram_planner.basis import Basis, Part
from vram_planner.engines.sglang_defaults import version_key
from vram_planner.errors import RequestError, UnsupportedArchitectureError
from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from vram_planner.architecture.model import Layer
    from vram_planner.architecture.weight import Weight
    from vram_planner.engines.base import Ask

_SOURCE = "https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/lora/mem_pool.py"
_INPUTS_CUT = frozenset({"o_proj", "down_proj", "experts.down"})
# How many matrices a stored one holds, each with an A of its own (get_stacked_multiply, lora/utils.py).
_STACKED = {"qkv_proj": 3, "gate_up_proj": 2, "query_key_value": 3}
_ADAPTED = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", *_STACKED})
_EXPERTS_FROM = (0, 5, 10)


def lora_parts(ask: Ask) -> tuple[Part, ...]:
    """
    The part `lora`, none where no adapter was asked for: buffers for `--max-loras-per-batch` adapters of the largest rank.

    Raises RequestError without a rank, UnsupportedArchitectureError for layers whose buffers are not modelled.
    """
    slots, rank = ask.options.max_loras, ask.options.max_lora_rank
    if not slots:
        return ()
    if rank is None:
        raise RequestError(
            "SGLang sizes its LoRA buffers by the largest rank",
            hint="--max-lora-rank 16, or what the adapters have",
        )
    _check(ask)
    layers = sum(layer_numbers(layer, ask, rank) * count for layer, count in ask.architecture.groups)
    n_bytes = layers * slots * ask.precision.element_bytes
    return (
        Part(
            name="lora",
            n_bytes=n_bytes,
            basis=Basis.FORMULA,
            source=_SOURCE,
            detail=f"{slots} adapters of rank {rank}: A and B of q, k, v, o, gate, up and down; high end: of embedding "
            "and head too (--lora-target-modules)",
            high_bytes=n_bytes + _tables(ask, rank) * slots * ask.precision.element_bytes,
        ),
    )


def _check(ask: Ask) -> None:
    model = ask.architecture
    experts = [isinstance(layer.feed_forward, MixtureOfExperts) for layer in model.layers]
    shared = any("shared" in weight.name for layer, _ in model.groups for weight in layer.weights)
    if model.states or ask.layout.pp > 1 or any(cache.latent for cache, _ in model.caches):
        raise UnsupportedArchitectureError(
            f"LoRA buffers of {model.model_type} are not modelled for SGLang: latent attention, recurrent layers "
            "and pipeline stages are not",
            hint="leave --max-loras out",
        )
    if any(experts) and (shared or not all(experts)):
        raise UnsupportedArchitectureError(
            f"LoRA buffers of {model.model_type} are not modelled for SGLang: it has dense or shared experts beside others",
            hint="leave --max-loras out",
        )
    version = ask.options.version
    if any(experts) and version is not None and version_key(version) < _EXPERTS_FROM:
        raise UnsupportedArchitectureError(
            f"SGLang {version} adapts no experts", hint="--engine-version 0.5.10 or newer"
        )


def layer_numbers(layer: Layer, ask: Ask, rank: int) -> int:
    """
    Numbers of one adapter's A and B in one layer, on one rank of tensor parallelism.

        cut along outputs (q, k, v; gate, up)   A r·in for each of them    B out/tp·r, a KV head on each rank at least
        cut along inputs (o, down)              A r·in/tp                  B out·r
        experts                                 the same for each expert on the rank
    Source: LoRAMemoryPool.get_lora_A_shape and get_lora_B_shape, lora/mem_pool.py.
    """
    total = 0
    for weight in layer.weights:
        last = weight.name.rpartition(".")[2]
        if weight.role is Role.EXPERT:
            total += _expert(weight, ask, rank)
        elif weight.role is Role.LINEAR and last in _ADAPTED:
            total += _matrix(weight, last, ask.layout.tp, rank)
    return total


def _matrix(weight: Weight, name: str, tp: int, rank: int) -> int:
    pieces, of = weight.share(tp)
    if name in _INPUTS_CUT:
        return rank * (weight.columns * pieces // of + weight.rows)
    return rank * (_STACKED.get(name, 1) * weight.columns + weight.rows * pieces // of)


def _expert(weight: Weight, ask: Ask, rank: int) -> int:
    tp = 1 if ask.layout.expert_parallel else ask.layout.tp
    count = ceil_div(weight.stack, ask.layout.tp) if ask.layout.expert_parallel else weight.stack
    if weight.name in _INPUTS_CUT:
        return count * rank * (ceil_div(weight.columns, tp) + weight.rows)
    stacked = 2 if "gate_up" in weight.name else 1
    return count * rank * (stacked * weight.columns + ceil_div(weight.rows, tp))


def _tables(ask: Ask, rank: int) -> int:
    """A over the vocabulary and B of the embedding; A and B over the vocabulary's share of the head."""
    rows, hidden = padded_vocabulary(ask.architecture.vocabulary, 64), ask.architecture.hidden
    return rank * (rows + hidden + hidden + ceil_div(rows, ask.layout.tp))
