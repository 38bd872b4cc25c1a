"""The tensors that a GGUF file has for a checkpoint's: which rows, split or stacked, and those that nothing reads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.attention import BorrowedKv, Latent
from vram_planner.architecture.recurrent import GatedDeltaNet, KimiDelta
from vram_planner.architecture.weight import Role

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.precision import Place
    from vram_planner.architecture.weight import Weight

_GEMMA_3_TOKENS = 262_144
_GEMMA_3N = "gemma3n"
_STACKED = ("altup_projections.", "altup_unembed_projections.")  # one tensor each in the file
_FUSED_EXPERTS = ("gemma4",)
APART = ("minimax_m3",)  # gate and up are two tensors in the file, its indexer is in float32


def as_written(weight: Weight, place: Place) -> Weight:
    """
    Gemma 3 pads its table to 262,208 rows; the converter keeps those that the tokenizer has.

    Of Gemma 3n's two tables it makes the second as long as the first.
    """
    if weight.role in (Role.EMBEDDING, Role.HEAD) and place.architecture.model_type.startswith("gemma3"):
        return replace(weight, shape=(stored_rows(place.architecture), weight.columns))
    return weight


def stored_rows(architecture: Architecture) -> int:
    """Rows of the embedding in the file. Source: llama.cpp b11434, conversion/gemma.py."""
    rows, kind = architecture.vocabulary, architecture.model_type
    return (
        min(rows, _GEMMA_3_TOKENS) if kind.startswith("gemma3") and not kind.startswith(_GEMMA_3N) else rows
    )


def unused_tensors(place: Place) -> tuple[Weight, ...]:
    """
    Keys, values and their norm of a layer of Gemma 3n that borrows its cache: in the file, loaded, and not used.

    Checkpoints hold them, transformers leaves them out. Source: src/models/gemma3n.cpp, load_arch_tensors.
    """
    if place.layer is None or not place.architecture.model_type.startswith(_GEMMA_3N):
        return ()
    layer = place.architecture.layers[place.layer]
    if not isinstance(layer.mixer, BorrowedKv):
        return ()
    used = {weight.name for weight in layer.mixer.weights}
    return tuple(weight for weight in layer.mixer.inner.weights if weight.name not in used)


def convolutions(weight: Weight, place: Place) -> tuple[Weight, ...]:
    """Of a convolution one for queries, keys and values each where the checkpoint has one for all (Kimi Linear)."""
    if weight.name != "conv1d":
        return (weight,)
    layer = place.architecture.layers[place.layer] if place.layer is not None else None
    if layer is None or not isinstance(layer.mixer, KimiDelta):
        return (weight,)
    shape = (weight.shape[0] // 3, *weight.shape[1:])
    return tuple(replace(weight, name=f"conv1d_{letter}", shape=shape) for letter in "qkv")


def stacked(weight: Weight, architecture: Architecture) -> tuple[Weight, ...]:
    """One tensor for the matrices that belong together, where the first of them stands."""
    family = next((name for name in _STACKED if weight.name.startswith(name)), None)
    if family is None:
        return (weight,)
    if not weight.name.endswith(".0"):
        return ()
    count = sum(other.name.startswith(family) for other in architecture.embedding_extras)
    return (replace(weight, name=family.removesuffix("."), shape=(count, *weight.shape)),)


def split(weight: Weight, place: Place, *, fused: bool) -> tuple[Weight, ...]:
    """
    The matrices that the file keeps apart though the checkpoint has them in one, and the other way round.

    Source: llama.cpp b11434, conversion/deepseek.py (kv_b), qwen.py (in_proj_qkvz), granite.py (shared_mlp.input_linear).
    """
    if place.layer is None or fused:
        return (weight,)
    mixer = place.architecture.layers[place.layer].mixer
    latent = getattr(mixer, "inner", mixer)
    if weight.name == "kv_b_proj" and isinstance(latent, Latent):
        heads = latent.n_heads
        return (
            replace(weight, name="k_b_proj", shape=(heads, latent.kv_rank, latent.nope_dim)),
            replace(weight, name="v_b_proj", shape=(heads, latent.value_dim, latent.kv_rank)),
        )
    if weight.name == "in_proj_qkvz" and isinstance(mixer, GatedDeltaNet):
        gate = mixer.value_heads * mixer.value_dim
        return (
            replace(weight, name="in_proj_qkv", shape=(weight.rows - gate, weight.columns)),
            replace(weight, name="in_proj_z", shape=(gate, weight.columns)),
        )
    if weight.name in ("experts.gate", "experts.up") and place.architecture.model_type.startswith(
        _FUSED_EXPERTS
    ):
        stack, width, columns = weight.shape
        both = replace(weight, name="experts.gate_up", shape=(stack, 2 * width, columns))
        return (both,) if weight.name == "experts.gate" else ()
    apart = place.architecture.model_type.startswith(APART)
    if weight.name == "shared_mlp.gate_up_proj" or (apart and weight.name.endswith("gate_up_proj")):
        half, prefix = (weight.rows // 2, weight.columns), weight.name.removesuffix("gate_up_proj")
        return tuple(replace(weight, name=f"{prefix}{part}_proj", shape=half) for part in ("gate", "up"))
    return (weight,)
