"""What vLLM's log counts as weights beside the tensors of the checkpoint: rotary tables, and the allocator's rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.attention import Latent, SlidingWindow
from vram_planner.architecture.parallel import table_bytes
from vram_planner.architecture.precision import Place
from vram_planner.architecture.weight import Role
from vram_planner.engines.allocator import held_bytes
from vram_planner.engines.memo import once
from vram_planner.engines.vllm_cache import held_caches
from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture, Layer
    from vram_planner.architecture.parallel import Layout
    from vram_planner.architecture.precision import Precision
    from vram_planner.engines.base import Ask
    from vram_planner.engines.vllm_setting import Setting

VOCABULARY_MULTIPLE = 64
_MROPE_STRETCH = 4
# vLLM stores these as one tensor, which matters to the allocator's rounding alone.
_FUSED = {
    "q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up",
    "experts.gate": "experts.w13", "experts.up": "experts.w13",
    "q_a_proj": "qkv_a", "kv_a_proj_with_mqa": "qkv_a",
}  # fmt: skip


def rotary_bytes(ask: Ask, setting: Setting) -> int:
    """
    Positions × rotary width × b for each kind of attention (cos and sin, half each).

    Positions are max_position_embeddings, `factor` times as many where scaling is linear (not in layers that slide),
    four times as many where they have three dimensions (from 0.7.2 on).
    Source: layers/rotary_embedding/linear_scaling_rope.py, mrope.py.
    """
    total, model = 0, ask.architecture
    for mixer in {layer.mixer for layer, _ in model.groups}:
        cache = mixer.cache
        width = mixer.rope_dim if isinstance(mixer, Latent) else cache.key_dim if cache else 0
        stretch = 1 if isinstance(mixer, SlidingWindow) else model.rope_stretch
        if model.mrope and setting.profile["eyes"] != "capped":
            stretch *= _MROPE_STRETCH
        total = total + (model.max_context or 0) * stretch * width * ask.precision.element_bytes
    return total


def absorbed_bytes(ask: Ask, setting: Setting) -> int:
    """
    MLA multiplies with kv_b_proj in 16 bits: where it is stored in fewer, heads/tp · (nope + v) · kv_rank · b more a layer.

    16-bit weights are looked at in place; without MLA, which starts with 0.7.1, there are no copies. Source: layers/attention/mla_attention.py, process_weights_after_loading.
    """
    total, place, element = 0, Place(ask.architecture, None), ask.precision.element_bytes
    if not any(cache.latent for cache, _ in held_caches(ask, setting.profile.get("latent"))):
        return 0
    for layer, count in ask.architecture.groups:
        if not isinstance(layer.mixer, Latent):
            continue
        for weight in layer.mixer.weights:
            stored = ask.precision.weight_bytes(weight, place)
            if weight.name.endswith("kv_b_proj") and stored < element * weight.elements:
                pieces, of = weight.share(ask.layout.tp)
                total += weight.elements * element * pieces // of * ceil_div(count, ask.layout.pp)
    return total


@once
def rounding_bytes(architecture: Architecture, precision: Precision, layout: Layout) -> int:
    """What the allocator holds beyond the tensors of one rank, made in the order of the modules; towers left out."""
    embedding, head = table_bytes(architecture, precision, layout, VOCABULARY_MULTIPLE)
    by_layer = {id(layer): _sizes(layer, architecture, precision, layout) for layer, _ in architecture.groups}
    alike = [(layer, by_layer[id(layer)]) for layer, _ in architecture.groups]
    here = architecture.layers[: ceil_div(len(architecture.layers), layout.pp)]
    sizes = [embedding]
    for layer in here:
        sizes += by_layer.get(id(layer)) or next(found for other, found in alike if other == layer)
    sizes.append(head)
    made = tuple(size for size in sizes if size)
    return held_bytes(made) - sum(made)


def _sizes(layer: Layer, architecture: Architecture, precision: Precision, layout: Layout) -> list[int]:
    """The layer's tensors on one rank, fused as vLLM fuses them; a format's scales count with its numbers."""
    sizes: dict[str, int] = {}
    place = Place(architecture, None)
    for weight in layer.weights:
        pieces, of = weight.share(layout.tp)
        if weight.role is Role.EXPERT and layout.expert_parallel:
            pieces, of = ceil_div(weight.shape[0], layout.expert_ranks), weight.shape[0]
        prefix, dot, last = weight.name.rpartition(".")
        key = _FUSED.get(weight.name) or f"{prefix}{dot}{_FUSED.get(last, last)}"
        sizes[key] = sizes.get(key, 0) + precision.weight_bytes(weight, place) * pieces // of
    return list(sizes.values())
