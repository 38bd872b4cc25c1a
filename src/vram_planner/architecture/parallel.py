"""What tensor, pipeline, expert and data parallelism divide and what they copy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vram_planner.architecture.precision import Place
from vram_planner.architecture.weight import Role
from vram_planner.units import ceil_div, round_up

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vram_planner.architecture.model import Architecture, Layer
    from vram_planner.architecture.precision import Precision
    from vram_planner.architecture.weight import Weight

_MOST_RANKS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """
    How many ranks share the work; `expert_parallel` deals out whole experts instead of cutting each.

    `attention_dp` is how many groups of the tp ranks serve requests of their own: attention is cut over the tp / attention_dp
    ranks of a group, and everything else over all of them (SGLang's and TensorRT-LLM's data parallel attention).
    `shared_experts` says that data-parallel ranks share one set of experts (vLLM), where each has its own else.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    expert_parallel: bool = False
    attention_dp: int = 1
    shared_experts: bool = False

    @property
    def attention_tp(self) -> int:
        """Ranks over which one request's attention is cut."""
        return self.tp // self.attention_dp

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self.tp * self.pp * self.dp

    @property
    def expert_tp(self) -> int:
        """Ranks that cut each expert, where whole ones are not dealt out."""
        return self.tp * self.dp if self.shared_experts else self.tp

    @property
    def expert_ranks(self) -> int:
        """Ranks over which whole experts are dealt out: vLLM uses all of tp × dp."""
        return self.tp * self.dp if self.expert_parallel else 1


def padded_vocabulary(vocabulary: int, multiple: int) -> int:
    """Rows of embedding and head after padding; vLLM pads to 64 (VocabParallelEmbedding), others not."""
    return round_up(vocabulary, multiple)


def valid_tp(architecture: Architecture, *, vocabulary_multiple: int = 64) -> tuple[int, ...]:
    """
    Tensor parallel sizes that divide the query heads and the padded vocabulary.

    KV heads must divide, or be divided by, the size; the heads and groups of recurrent states are never copied.
    """
    return tuple(
        tp for tp in range(1, _MOST_RANKS + 1) if why_not_tp(architecture, tp, vocabulary_multiple) is None
    )


def why_not_tp(architecture: Architecture, tp: int, vocabulary_multiple: int = 64) -> str | None:
    """What a tensor parallel size does not divide; None where it fits."""
    rows = padded_vocabulary(architecture.vocabulary, vocabulary_multiple)
    reason = _why_not_heads(architecture, tp)
    if rows % tp and (reason is None or "attention heads" not in reason):
        return f"a vocabulary of {architecture.vocabulary:,} tokens (padded to {rows:,})"
    return reason


def why_not_layout(architecture: Architecture, layout: Layout) -> str | None:
    """As `why_not_tp`: attention is cut over its own ranks, the vocabulary over all; the groups divide the ranks."""
    if layout.attention_dp == 1:
        return why_not_tp(architecture, layout.tp)
    rows = padded_vocabulary(architecture.vocabulary, 64)
    if rows % layout.tp:
        return f"a vocabulary of {architecture.vocabulary:,} tokens (padded to {rows:,})"
    return _why_not_heads(architecture, layout.attention_tp)


def _why_not_heads(architecture: Architecture, tp: int) -> str | None:
    if architecture.caches and architecture.n_heads % tp:
        return f"{architecture.n_heads} attention heads"
    for cache, _ in architecture.caches:
        if not cache.latent and cache.n_heads % tp and tp % cache.n_heads:
            return f"{cache.n_heads} KV heads"
    for state, _ in architecture.states:
        if state.kind == "compressor":  # DeepSeek-V4: one shared head, whole on every rank like its cache
            continue
        if state.heads % tp:
            return f"{state.heads} heads of a recurrent state"
        # vLLM mamba_mixer2.py: one group is copied to all ranks, more are dealt out.
        if state.groups > 1 and state.groups % tp:
            return f"{state.groups} groups of a recurrent state"
    return None


def stage_layers(n_layers: int, pp: int) -> tuple[int, ...]:
    """
    Layers of each pipeline stage; what is left over goes to the last stages but one, from behind.

    Source: vLLM get_pp_indices, vllm/distributed/utils.py.
    """
    stages = [n_layers // pp] * pp
    for extra in range(n_layers % pp):
        stages[-(extra + 2) if pp > 1 else 0] += 1
    return tuple(stages)


def _rank_bytes(weight: Weight, n_bytes: int, layout: Layout) -> int:
    if weight.role is Role.TOWER:
        # vLLM deals out the matrices of its encoders too (SigLIP, Qwen's ViT): Qwen2-VL-7B logs 7.75 GiB at tp 2.
        return ceil_div(n_bytes, layout.tp) if len(weight.shape) > 1 else n_bytes
    if weight.name.startswith("experts.") and layout.expert_parallel:
        n_experts = weight.shape[0]
        return n_bytes * ceil_div(n_experts, layout.expert_ranks) // n_experts
    pieces, of = weight.share(layout.expert_tp if weight.name.startswith("experts.") else layout.tp)
    return ceil_div(n_bytes * pieces, of)


def weights_on_rank(weights: Iterable[Weight], precision: Precision, place: Place, layout: Layout) -> int:
    """Bytes of these tensors on one rank."""
    return sum(_rank_bytes(weight, precision.weight_bytes(weight, place), layout) for weight in weights)


def layer_bytes(architecture: Architecture, precision: Precision, layout: Layout, index: int) -> int:
    """Bytes of one layer on one rank."""
    place = Place(architecture, index)
    return _sum_layer(architecture.layers[index], precision, layout, place)


def _sum_layer(layer: Layer, precision: Precision, layout: Layout, place: Place) -> int:
    """Over all ranks, but for the mixer where only some of them share a request's attention."""
    if layout.attention_dp == 1:
        return weights_on_rank(layer.weights, precision, place, layout)
    mixers, beside = replace(layout, tp=layout.attention_tp), (*layer.norms, *layer.feed_forward.weights)
    mixing = weights_on_rank(layer.mixer.weights, precision, place, mixers)
    return mixing + weights_on_rank(beside, precision, place, layout)


def table_bytes(
    architecture: Architecture, precision: Precision, layout: Layout, multiple: int
) -> tuple[int, int]:
    """
    Bytes of the embedding and of the head on one rank, rows padded to `multiple`.

    With data parallel attention a group of ranks looks up its own tokens, so the embedding is cut over the group.
    """
    place = Place(architecture, None)

    def padded(weight: Weight, tp: int) -> int:
        n_bytes = precision.weight_bytes(weight, place)
        if weight.role in (Role.EMBEDDING, Role.HEAD):
            # A table may have fewer rows than the vocabulary (Gemma 3n's for each layer).
            rows = weight.shape[0]
            return ceil_div(n_bytes // rows * padded_vocabulary(rows, multiple), tp)
        return _rank_bytes(weight, n_bytes, layout)

    return (
        sum(padded(weight, layout.attention_tp) for weight in architecture.embedding),
        sum(padded(weight, layout.tp) for weight in architecture.head),
    )


def rank_weight_bytes(
    architecture: Architecture, precision: Precision, layout: Layout, *, vocabulary_multiple: int = 64
) -> tuple[int, ...]:
    """
    Bytes of the weights on one rank of each pipeline stage.

    The first stage holds the embedding, the last one final norm and head (a tied head again, where
    there is more than one stage). Towers stand on the first stage, uncut: vLLM replicates most of them.
    """
    place = Place(architecture, None)
    embedding, head = table_bytes(architecture, precision, layout, vocabulary_multiple)
    norms = sum(precision.weight_bytes(weight, place) for weight in architecture.final_norm)
    towers = sum(_rank_bytes(w, precision.weight_bytes(w, place), layout) for w in architecture.towers)
    totals = []
    start = 0
    for count in stage_layers(len(architecture.layers), layout.pp):
        totals.append(_range_bytes(architecture, precision, layout, range(start, start + count)))
        start += count
    totals[0] += embedding + towers
    totals[-1] += norms + head + (embedding if architecture.tied_head and layout.pp > 1 else 0)
    return tuple(totals)


def _range_bytes(architecture: Architecture, precision: Precision, layout: Layout, indices: range) -> int:
    if precision.by_layer:
        return sum(layer_bytes(architecture, precision, layout, index) for index in indices)
    place = Place(architecture, None)
    known = {id(layer): _sum_layer(layer, precision, layout, place) for layer, _ in architecture.groups}
    total = 0
    for index in indices:
        layer = architecture.layers[index]
        if id(layer) not in known:
            known[id(layer)] = _sum_layer(layer, precision, layout, place)
        total += known[id(layer)]
    return total
