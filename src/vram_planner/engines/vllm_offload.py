"""vLLM's --cpu-offload-gb: tensors of the first layers stay in host memory, and the card reads them from there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.parallel import weights_on_rank
from vram_planner.architecture.precision import Place
from vram_planner.engines.vllm_stages import stage_asks
from vram_planner.engines.vllm_weights import as_held

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vram_planner.architecture.model import Layer
    from vram_planner.basis import Part
    from vram_planner.engines.base import Ask

# Names that vLLM stores as one tensor; the last to come decides nothing, for all go together.
_ONE = {
    "q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up",
    "experts.gate": "experts.w13", "experts.up": "experts.w13",
    "q_a_proj": "qkv_a", "kv_a_proj_with_mqa": "qkv_a",
}  # fmt: skip


def offloaded_bytes(ask: Ask, stage: int = 0) -> int:
    """
    Bytes of a rank's layers that stay in host memory: whole tensors, from the first layer on, until it is enough.

    The last tensor may go beyond what was asked for. Embedding, head and final norm stay on the card. Within a layer
    come the mixer, the feed-forward block, then the norms.
    Source: vLLM 0.32 model_executor/offloader/uva.py, _maybe_offload_to_cpu.
    """
    limit, gone = ask.options.cpu_offload or 0, 0
    if not limit:
        return 0
    part = stage_asks(ask)[stage]
    for layer in part.architecture.layers:
        for n_bytes in _tensors(layer, part):
            if gone >= limit:
                return gone
            gone += n_bytes
    return gone


def in_host_memory(ask: Ask) -> dict[str, int]:
    """The setting that speed goes by: bytes of all stages of a tensor parallel rank, which each step reads over PCIe."""
    if not ask.options.cpu_offload:
        return {}
    return {"host_weights_bytes": sum(offloaded_bytes(ask, stage) for stage in range(ask.layout.pp))}


def _tensors(layer: Layer, ask: Ask) -> Iterator[int]:
    model, precision = as_held(replace(ask.architecture, layers=(layer,)), ask.precision, ask.layout)
    place = Place(ask.architecture, None)
    sizes: dict[str, int] = {}
    names = {weight.name for weight in layer.norms}
    held = model.layers[0].weights
    # vLLM registers the mixer, the router, shared experts, routed experts and the norms in this order.
    for weight in sorted(held, key=lambda w: (w.name in names, w.name.startswith("experts."))):
        prefix, dot, last = weight.name.rpartition(".")
        key = _ONE.get(weight.name) or f"{prefix}{dot}{_ONE.get(last, last)}"
        sizes[key] = sizes.get(key, 0) + weights_on_rank((weight,), precision, place, ask.layout)
    yield from sizes.values()


def on_card(weights: Part, ask: Ask, stage: int) -> Part:
    """The part `weights` without what stays in host memory."""
    gone = offloaded_bytes(ask, stage)
    if not gone:
        return weights
    short, colon, rest = weights.detail.partition(": ")
    return replace(
        weights,
        n_bytes=weights.n_bytes - gone,
        low_bytes=weights.low - gone,
        high_bytes=weights.high - gone,
        detail=f"{short}, {gone:,} B of it in host memory{colon}{rest}",
    )
