"""What one step of a model moves and computes on one rank: numbers only, from its layers, format and layout."""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, NamedTuple, ParamSpec

from vram_planner.architecture.attention import Latent
from vram_planner.architecture.feed_forward import OTHER_EXPERTS
from vram_planner.architecture.precision import walk
from vram_planner.architecture.weight import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.cache import KvCache
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.parallel import Layout
    from vram_planner.architecture.precision import Precision
    from vram_planner.architecture.weight import Weight

_SLICES = 8  # of a prompt, over which the work of attention is summed
_STATE_BYTES = 4
_MOST_SUMS = 4096
Asked = ParamSpec("Asked")
_ALL_REDUCES = 2  # a layer: after the mixer and after the feed-forward block


def _remembered(
    method: Callable[Concatenate[Work, Asked], float],
) -> Callable[Concatenate[Work, Asked], float]:
    """Remember a sum over layers: one work serves all cards, and all concurrencies of a context."""
    name = method.__name__

    @wraps(method)
    def remembered(self: Work, /, *asked: Asked.args, **named: Asked.kwargs) -> float:
        sums: dict[Hashable, float] = vars(self).setdefault("_sums", {})
        key = name, asked
        found = sums.get(key)
        if found is None:
            if len(sums) >= _MOST_SUMS:
                sums.clear()
            found = sums[key] = method(self, *asked, **named)
        return found

    return remembered


class Experts(NamedTuple):
    """Expert matrices on one rank, of which each token uses `used` of `of`."""

    n_bytes: float
    used: int
    of: int

    def touched(self, tokens: float) -> float:
        """
        Bytes of those that at least one of the tokens uses: W · (1 − (1 − k/E)^n).

        W  bytes of all experts    k, E  experts a token uses, of how many    n  tokens of the step
        Holds for tokens that choose evenly and independently, as routers are trained to.
        """
        return float(self.n_bytes * (1 - (1 - self.used / self.of) ** tokens))


class Kept(NamedTuple):
    """What a token leaves in a cache on one rank, and how many tokens of it are read again."""

    n_bytes: float
    window: int | None
    fixed: int | None

    def read(self, context: float) -> float:
        """Bytes that one decoding sequence reads at a context."""
        if self.fixed is not None:
            return self.n_bytes * self.fixed
        return self.n_bytes * (context if self.window is None else min(context, self.window))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Work:
    """
    One step on one tensor parallel rank, all pipeline stages together; `expert_flops` are part of `matrix_flops`.

    `dense_bytes` are the weights that every step reads: all but the input embedding, towers and experts.
    `matrix_flops` are those of one token in the layers, `head_flops` of one row of logits. `state_bytes` is
    what recurrent layers keep for a sequence. `activation_bytes` is one token's vector between two layers.
    `host_bytes` are weights beside experts that lie in the host's memory, `host_experts` the share of the experts there.
    `groups` are those that serve requests of their own and share the experts; a step's tokens are one group's, `tp` its
    ranks, and `exchange` all ranks, between which the tokens of all groups go to the experts and back.
    `score_heads` are the query heads of all layers whose scores are written out (attention without flash kernels),
    `unpacked_bytes` what a step over a prompt reads and writes to unpack weights before it multiplies them.
    `expert_tile` are the tokens of a tile to which each expert's tokens of a prompt are padded, 0 where they are not.
    `ends` are the elements that go into matrices and come out of them for a token, where they are converted for it.
    """

    layers: int
    expert_layers: int
    dense_bytes: float
    experts: tuple[Experts, ...]
    matrix_flops: float
    expert_flops: float
    head_flops: float
    kept: tuple[Kept, ...]
    state_bytes: float
    mixers: tuple[tuple[Mixer, float], ...]
    activation_bytes: int
    tp: int = 1
    pp: int = 1
    expert_ranks: int = 1
    groups: int = 1
    exchange: int = 1
    host_bytes: float = 0.0
    host_experts: float = 0.0
    score_heads: float = 0.0
    unpacked_bytes: float = 0.0
    expert_tile: float = 0.0
    ends: float = 0.0

    def weight_bytes(self, tokens: float) -> float:
        """Weights that a step of so many tokens reads."""
        return self.dense_bytes + self.expert_bytes(tokens)

    @_remembered
    def expert_bytes(self, tokens: float) -> float:
        """Experts that a step reads: those that the tokens of all groups choose."""
        return sum(each.touched(tokens * self.groups) for each in self.experts)

    @_remembered
    def cache_bytes(self, context: float) -> float:
        """What one decoding sequence reads (and a state writes back) at a context."""
        return sum(kept.read(context) for kept in self.kept) + 2 * self.state_bytes

    @_remembered
    def score_flops(self, context: float) -> float:
        """Attention of one decoded token that looks back over `context` tokens."""
        return sum(mixer.score_flops(int(context)) * share for mixer, share in self.mixers)

    @_remembered
    def prompt_score_flops(self, start: float, end: float) -> float:
        """
        Attention of the tokens from `start` to `end` of a prompt, each over those before it: the sum of f(i).

        Latent attention expands keys and values of a prompt, so it scores over
        nope + rope + value elements a head instead of 2 · rank + rope.
        """
        width = (end - start) / _SLICES
        total = 0.0
        for mixer, share in self.mixers:
            ratio = _expanded(mixer)
            middles = (start + (part + 0.5) * width for part in range(_SLICES))
            total += ratio * share * sum(mixer.score_flops(int(middle)) for middle in middles) * width
        return total

    @property
    def all_reduces(self) -> int:
        """Collectives of a step over tensor parallel ranks: after experts that groups share, tokens are dealt out instead."""
        if self.tp == 1:
            return 0
        return _ALL_REDUCES * self.layers - self.exchanges

    @property
    def exchanges(self) -> int:
        """
        Layers in which the groups gather all tokens for the experts, and scatter the sums.

        Source: vLLM config/parallel.py, all2all_backend allgather_reducescatter, its default; SGLang
        layers/dp_attention.py, dp_gather and dp_scatter.
        """
        return 0 if self.groups == 1 else self.expert_layers or self.layers


def _expanded(mixer: Mixer) -> float:
    inner = getattr(mixer, "inner", mixer)
    if not isinstance(inner, Latent):
        return 1.0
    return (inner.nope_dim + inner.rope_dim + inner.value_dim) / (2 * inner.kv_rank + inner.rope_dim)


def work_of(architecture: Architecture, precision: Precision, layout: Layout, kv_bytes: float) -> Work:
    """
    The work of a model on one rank; `kv_bytes` are those of one cached element.

    Of one group's tokens where groups share experts: a rank then has its part of the experts for the tokens of all
    groups, which is 1 / tp of a group's operations for each token of the group, tp the ranks of a group.
    """
    tp, groups = layout.attention_tp, layout.attention_dp
    if layout.shared_experts and any(_is_routed(layer.feed_forward) for layer, _ in architecture.groups):
        groups *= layout.dp
    dense, experts = _weights(architecture, precision, layout)
    active = sum(layer.active_parameters * count for layer, count in architecture.groups)
    kept = [_kept(cache, count, tp, kv_bytes) for cache, count in architecture.caches]
    kept += [_kept(cache, count, tp, kv_bytes) for cache, count in architecture.indexers]
    states = sum(
        (state.state_elements + state.conv_channels * state.conv_tokens) * count
        for state, count in architecture.states
    )
    return Work(
        layers=len(architecture.layers),
        expert_layers=sum(count for layer, count in architecture.groups if _is_routed(layer.feed_forward)),
        dense_bytes=dense,
        experts=experts,
        matrix_flops=2 * active / tp,
        expert_flops=_expert_flops(architecture) / tp,
        head_flops=2 * architecture.vocabulary * architecture.hidden / tp,
        kept=tuple(part for parts in kept for part in parts),
        state_bytes=states * _STATE_BYTES / tp,
        mixers=tuple((layer.mixer, count / tp) for layer, count in architecture.groups),
        activation_bytes=architecture.hidden * precision.element_bytes,
        tp=tp,
        pp=layout.pp,
        expert_ranks=layout.expert_ranks,
        groups=groups,
        exchange=tp * groups,
    )


def _expert_flops(architecture: Architecture) -> float:
    total = 0.0
    for layer, count in architecture.groups:
        used, of = layer.feed_forward.active_share
        held = sum(
            weight.elements
            for weight in layer.weights
            if weight.name.startswith("experts.") and not weight.name.startswith(OTHER_EXPERTS)
        )
        total += 2 * held * used / of * count
    return total


def _is_routed(feed_forward: object) -> bool:
    used, of = getattr(feed_forward, "active_share", (1, 1))
    return bool(used != of)


def _weights(
    architecture: Architecture, precision: Precision, layout: Layout
) -> tuple[float, tuple[Experts, ...]]:
    routed: dict[tuple[int, int], float] = {}
    shares = {
        weight.shape: layer.feed_forward.active_share
        for layer, _ in architecture.groups
        for weight in layer.weights
        if weight.name.startswith("experts.")
    }
    mixing = {weight.name for layer, _ in architecture.groups for weight in layer.mixer.weights}
    dense = 0.0
    for weight, place, count in walk(architecture, precision):
        if _is_not_read(weight, architecture):
            continue
        pieces, of = weight.share(layout.attention_tp if weight.name in mixing else layout.tp)
        n_bytes = precision.weight_bytes(weight, place) * count
        if weight.name.startswith("experts."):
            share = shares[weight.shape]
            routed[share] = routed.get(share, 0.0) + n_bytes / max(layout.expert_tp, layout.expert_ranks)
        elif weight.role in (Role.HEAD, Role.EMBEDDING):
            dense += n_bytes / layout.tp
        else:
            dense += n_bytes * pieces / of
    return dense, tuple(Experts(n_bytes, *share) for share, n_bytes in routed.items())


def _is_not_read(weight: Weight, architecture: Architecture) -> bool:
    """Input embeddings are look-ups, but for a table that serves as head; towers and other experts run for images."""
    if weight.role is Role.EMBEDDING:
        return not (architecture.tied_head and weight.name == "embed_tokens")
    return weight.role is Role.TOWER or weight.name.startswith(OTHER_EXPERTS)


def _kept(cache: KvCache, count: int, tp: int, kv_bytes: float) -> list[Kept]:
    n_bytes = cache.elements_per_token(tp) * kv_bytes * count / cache.stride
    found = [Kept(n_bytes, cache.window, cache.fixed_tokens)]
    return found if cache.compressed is None else [*found, *_kept(cache.compressed, count, tp, kv_bytes)]
