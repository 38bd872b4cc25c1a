"""A whole model: embedding, layers, head, and what hangs beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from vram_planner.architecture.feed_forward import OTHER_EXPERTS
from vram_planner.architecture.precision import walk
from vram_planner.architecture.weight import Role, Weight, count_parameters

if TYPE_CHECKING:
    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.cache import KvCache, StateCache
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.precision import Precision
    from vram_planner.architecture.vision import Eye


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One decoder layer: a mixer, a feed-forward block, and norms around them."""

    mixer: Mixer
    feed_forward: FeedForward
    norms: tuple[Weight, ...]

    @cached_property
    def weights(self) -> tuple[Weight, ...]:
        """All tensors of the layer."""
        return (*self.norms, *self.mixer.weights, *self.feed_forward.weights)

    @cached_property
    def parameters(self) -> int:
        """How many parameters it has."""
        return count_parameters(self.weights)

    @cached_property
    def active_parameters(self) -> int:
        """How many of them one token uses: of the experts, its top_k."""
        used, of = self.feed_forward.active_share
        return sum(
            weight.elements * used // of if weight.name.startswith("experts.") else weight.elements
            for weight in self.weights
            if weight.role is not Role.BUFFER and not weight.name.startswith(OTHER_EXPERTS)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Vision:
    """What a config says of its vision encoder, None where it does not: engines set memory aside by these."""

    family: str
    layers: int | None = None
    depth: int | None = None
    hidden: int | None = None


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """
    What a model is made of, apart from any engine.

    `layers` are those that every request runs through; `draft_layers` hold the weights of multi-token
    prediction or other draft heads, which engines load only for speculative decoding; `draft_mixers` are what
    mixes tokens in them, one for each, for what it caches. `towers` are the
    weights of vision or audio encoders. `precision` is how the checkpoint stores its tensors.
    `max_context` is the longest context that the model was made for, in tokens. `capped_logits` says that
    logits are squeezed through a tanh (Gemma 2), which costs a copy of them. `pixels_per_token` is how many
    numbers of an image stand behind one token of it, where there is a vision tower (else 0). `eye` is how the
    tower looks at a picture, where we know. `rope_stretch` times `max_context` positions are in a table of
    linearly scaled rotary angles; `mrope` says that positions have three dimensions, `own_angles` that each layer
    has a table of rotary angles of its own (Grok 2). `kv_dtype` is the type
    of cache that the checkpoint asks for ("fp8", "nvfp4"), None where it leaves that to the engine; `kv_dtype_by` is
    the tool that asks ("modelopt", "compressed-tensors"). `vision` is what the config says of the encoder, where
    there is one.
    `unstored` are parameters that transformers' own module allocates but no checkpoint or other engine holds;
    they are not in `parameters`.
    """

    model_type: str
    hidden: int
    vocabulary: int
    layers: tuple[Layer, ...]
    precision: Precision
    tied_head: bool = False
    head_bias: bool = False
    capped_logits: bool = False
    pixels_per_token: int = 0
    eye: Eye | None = None
    rope_stretch: int = 1
    mrope: bool = False
    own_angles: bool = False
    final_norm: tuple[Weight, ...] = ()
    embedding_extras: tuple[Weight, ...] = ()
    draft_layers: tuple[Weight, ...] = ()
    draft_mixers: tuple[Mixer, ...] = ()
    towers: tuple[Weight, ...] = ()
    max_context: int | None = None
    kv_dtype: str | None = None
    kv_dtype_by: str | None = None
    vision: Vision | None = None
    unstored: int = 0
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def embedding(self) -> tuple[Weight, ...]:
        """The input embedding (rows are tokens) and what is learned beside it."""
        table = Weight(
            name="embed_tokens",
            shape=(self.vocabulary, self.hidden),
            role=Role.EMBEDDING,
            units=self.vocabulary,
        )
        return (table, *self.embedding_extras)

    @cached_property
    def head(self) -> tuple[Weight, ...]:
        """The output head; only its bias where the embedding serves as head."""
        bias: tuple[Weight, ...] = ()
        if self.head_bias:
            bias = (
                Weight(name="lm_head.bias", shape=(self.vocabulary,), role=Role.BIAS, units=self.vocabulary),
            )
        if self.tied_head:
            return bias
        table = Weight(
            name="lm_head", shape=(self.vocabulary, self.hidden), role=Role.HEAD, units=self.vocabulary
        )
        return (table, *bias)

    @cached_property
    def groups(self) -> tuple[tuple[Layer, int], ...]:
        """Layers that are alike, with how many of each there are, in order of first appearance."""
        counts: dict[int, int] = {}
        first: dict[int, Layer] = {}
        for layer in self.layers:
            key = next((k for k, other in first.items() if other is layer or other == layer), id(layer))
            first.setdefault(key, layer)
            counts[key] = counts.get(key, 0) + 1
        return tuple((first[key], counts[key]) for key in first)

    @cached_property
    def caches(self) -> tuple[tuple[KvCache, int], ...]:
        """What the layers keep, alike ones counted together."""
        counts: dict[KvCache, int] = {}
        for layer, count in self.groups:
            cache = layer.mixer.cache
            if cache is not None:
                counts[cache] = counts.get(cache, 0) + count
        return tuple(counts.items())

    @cached_property
    def states(self) -> tuple[tuple[StateCache, int], ...]:
        """What recurrent layers keep for a sequence, alike ones counted together."""
        counts: dict[StateCache, int] = {}
        for layer, count in self.groups:
            if layer.mixer.state is not None:
                counts[layer.mixer.state] = counts.get(layer.mixer.state, 0) + count
        return tuple(counts.items())

    @cached_property
    def indexers(self) -> tuple[tuple[KvCache, int], ...]:
        """What sparse-attention indexers keep, alike ones counted together."""
        counts: dict[KvCache, int] = {}
        for layer, count in self.groups:
            if layer.mixer.indexer is not None:
                counts[layer.mixer.indexer] = counts.get(layer.mixer.indexer, 0) + count
        return tuple(counts.items())

    @cached_property
    def kinds(self) -> frozenset[str]:
        """What an engine must know beyond full, windowed and latent caches to plan this model."""
        found = {"state"} if self.states else set()
        found |= {"indexer"} if self.indexers else set()
        found |= {"chunked" for cache, _ in self.caches if cache.chunked}
        found |= {"cross" for cache, _ in self.caches if cache.fixed_tokens is not None}
        found |= {
            "compressed" for cache, _ in self.caches if cache.compressed is not None or cache.stride > 1
        }
        found |= {"no_cache"} if not self.caches and not self.states else set()
        shapes = {(cache.n_heads, cache.key_dim, cache.value_dim) for cache, _ in self.caches}
        found |= {"mixed_heads"} if len(shapes) > 1 else set()
        return frozenset(found)

    @cached_property
    def parameters(self) -> int:
        """Every parameter once: tied tensors once, draft layers left out."""
        outside = (*self.embedding, *self.final_norm, *self.head, *self.towers)
        return count_parameters(outside) + sum(layer.parameters * count for layer, count in self.groups)

    @cached_property
    def active_parameters(self) -> int:
        """Parameters that one text token uses: its experts only, no tower; the embedding counts in full."""
        outside = (*self.embedding, *self.final_norm, *self.head)
        return count_parameters(outside) + sum(
            layer.active_parameters * count for layer, count in self.groups
        )

    @cached_property
    def n_heads(self) -> int:
        """Query heads of the layers (the most, where they differ)."""
        return max(layer.mixer.n_heads for layer, _ in self.groups)

    def weights_bytes(self, precision: Precision | None = None) -> int:
        """Bytes of the whole model as stored, or as `precision` would store it."""
        chosen = precision or self.precision
        return sum(chosen.weight_bytes(weight, place) * count for weight, place, count in walk(self, chosen))

    def flops_per_token(self, context: int) -> int:
        """
        Floating-point operations to process one token at a context: 2 per active matrix element, and attention.

        Input embeddings are look-ups and are left out; a tied head is a product and counts.
        """
        looked_up = sum(weight.elements for weight in self.embedding if weight.role is Role.EMBEDDING)
        products = (
            self.active_parameters - looked_up + (self.vocabulary * self.hidden if self.tied_head else 0)
        )
        return 2 * products + sum(layer.mixer.score_flops(context) * n for layer, n in self.groups)
