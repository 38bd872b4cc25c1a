"""A run of layers on one card, and the live bytes of a prefill, of a decode step and of sampling over it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from vram_planner.architecture.attention import BorrowedKv, FullAttention, Latent
from vram_planner.architecture.model import Layer
from vram_planner.architecture.sparse import CompressedAttention
from vram_planner.engines.transformers_cache import cache_bytes, growing_cache, state_bytes, stored_tokens
from vram_planner.engines.transformers_compressed import compressed_cache_bytes, streams_bytes
from vram_planner.engines.transformers_mixers import mixer_bytes, plain_attention
from vram_planner.engines.transformers_pass import FLOAT_BYTES, INDEX_BYTES, Pass, rounded
from vram_planner.engines.transformers_peaks import (
    fresh_bytes,
    layer_bytes,
    mask_bytes,
    per_layer_embedding_bytes,
)
from vram_planner.engines.transformers_traits import Traits, traits_of

if TYPE_CHECKING:
    from vram_planner.architecture.cache import KvCache, StateCache
    from vram_planner.architecture.model import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Live bytes beyond the weights at one moment, and what sets them."""

    n_bytes: int
    moment: str

    def beside(self, n_bytes: int) -> Peak:
        """The same with so many more bytes alive."""
        return Peak(n_bytes=self.n_bytes + n_bytes, moment=self.moment) if n_bytes else self


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """
    Layers that are alike: how many, what each caches, and how many of each kind stand before the first and after the last.

    `folded` is set where the layer keeps compressed entries, and no plain cache or state.
    """

    layer: Layer
    count: int
    cache: KvCache | None
    indexer: KvCache | None
    state: StateCache | None
    before: tuple[int, ...]
    after: tuple[int, ...]
    folded: CompressedAttention | None = None

    def folded_bytes(self, batch: int, tokens: int, element_bytes: int, *, decoded: bool) -> int:
        """Bytes of one layer's window and compressed entries, 0 without them."""
        if self.folded is None:
            return 0
        return compressed_cache_bytes(self.folded, batch, tokens, element_bytes, decoded=decoded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """
    Layers on one card: kinds, the widths around them, and weights.

    `windows` are the distinct windows of its layers (None: all tokens): one mask is made for each.
    `staged_bytes` are the largest module that is copied in from the CPU's memory while it runs.
    """

    kinds: tuple[Kind, ...]
    hidden: int
    vocabulary: int
    rope_dim: int
    windows: tuple[int | None, ...]
    traits: Traits
    weights_bytes: int
    staged_bytes: int = 0

    @property
    def latent(self) -> bool:
        """Whether some layer's keys and values differ in width, as MLA's do."""
        return any(
            (found := plain_attention(kind.layer.mixer)) is not None and isinstance(found[0], Latent)
            for kind in self.kinds
        )

    @property
    def shrinks(self) -> bool:
        """Whether the first decode step lets go of what the prefill's views pin."""
        return any(self.windows) or any(kind.folded is not None for kind in self.kinds)

    def kv_bytes(
        self, batch: int, tokens: int, element_bytes: int, *, decoded: bool, static: int | None = None
    ) -> int:
        """Bytes of the cache of `batch` requests of `tokens` tokens: what the storages of the Cache hold."""
        folded = sum(
            kind.count * kind.folded_bytes(batch, tokens, element_bytes, decoded=decoded)
            for kind in self.kinds
        )
        return folded + sum(
            kind.count
            * cache_bytes(
                cache,
                batch,
                stored_tokens(tokens, cache.window, decoded=decoded, static=static),
                self._number_bytes(cache, kind, element_bytes),
                static=static is not None and cache is kind.cache,
            )
            for kind in self.kinds
            for cache in (kind.cache, kind.indexer)
            if cache is not None
        )

    def _number_bytes(self, cache: KvCache, kind: Kind, element_bytes: int) -> int:
        """Bytes of one cached number: an indexer's keys may be wider."""
        own = self.traits.indexer_bytes
        return own if own is not None and cache is kind.indexer else element_bytes

    def state_bytes(self, batch: int, element_bytes: int) -> int:
        """Bytes of the recurrent states of `batch` sequences, whatever their length."""
        return sum(
            kind.count * state_bytes(kind.state, batch, element_bytes)
            for kind in self.kinds
            if kind.state is not None
        )

    def held_bytes(self, step: Pass) -> int:
        """All caches and states once a pass is over."""
        kv = self.kv_bytes(
            step.batch, step.total, step.element_bytes, decoded=step.past > 0, static=step.static
        )
        return kv + self.state_bytes(step.batch, step.element_bytes)

    def _around(self, step: Pass) -> int:
        """Bytes that live through the whole pass: masks, rotary cos and sin, positions, windows rounded up to a block."""
        table = step.new * self.rope_dim
        one = step.floats(table) if self.traits.turns_each_in_float else step.size(table)
        rope = 2 * self.traits.rope_sets * one
        rope += rounded(step.new * INDEX_BYTES)
        own = step.size(step.tokens * self.traits.per_layer_width) if self.traits.per_layer_width else 0
        return rope + own + self._slack(step) + mask_bytes(self.windows, step, forced=self._forced)

    @property
    def _forced(self) -> int:
        """Masks that are made though nothing asks for them: an idle window's, and the one that an indexer cuts."""
        return int(self.traits.idle_mask) + int(any(kind.indexer is not None for kind in self.kinds))

    def _slack(self, step: Pass) -> int:
        """What rounding adds to the counters of sliding layers, or of a StaticCache's, eight bytes each."""
        return sum(
            kind.count * (rounded(1) - INDEX_BYTES)
            for kind in self.kinds
            if kind.cache is not None and (step.static is not None or kind.cache.window is not None)
        )

    def forward(self, step: Pass, logits: int = 1) -> Peak:
        """
        The peak of one forward pass that computes the logits of the last `logits` positions of each request.

        The cache of all layers is there when the last layer runs. The last layer of each kind is looked at; in
        a prefill the layers behind it have nothing yet.
        """
        cache = self.held_bytes(step)
        stages = [
            layer_bytes(kind.layer, self._share(kind, step, logits), self.hidden, self.traits)
            - self._to_come(kind.after, step)
            for kind in self.kinds
        ]
        best = Peak(n_bytes=cache + self._around(step) + max(stages), moment="layer")
        table = self._logits_bytes(step, logits)
        last = Peak(
            n_bytes=cache + step.size(step.tokens * self.hidden) + self._slack(step) + table, moment="logits"
        )
        first = Peak(
            n_bytes=per_layer_embedding_bytes(step, self.hidden, self.traits.per_layer_width),
            moment="per-layer embeddings",
        )
        return max(best, last, first, key=lambda peak: peak.n_bytes)

    def _logits_bytes(self, step: Pass, logits: int) -> int:
        """
        Logits of all kept positions, B · L · V, and their copies: scaled ones, or one in float32 before 4.45.

        Source: LlamaForCausalLM.forward of 5.23.0; of 4.44.2, `logits = self.lm_head(hidden_states); logits = logits.float()`,
        https://github.com/huggingface/transformers/blob/v4.44.2/src/transformers/models/llama/modeling_llama.py.
        """
        count = step.batch * logits * self.vocabulary
        wide = step.floats(count) if step.upcast and step.element_bytes < FLOAT_BYTES else 0
        return self.traits.logit_copies * step.size(count) + wide

    def _share(self, kind: Kind, step: Pass, logits: int) -> Pass:
        """The tokens of a pass that this kind of layer runs: all, or the one whose logits are kept."""
        if logits > 1 or not self.traits.skips_borrowed or not isinstance(kind.layer.mixer, BorrowedKv):
            return step
        return replace(step, new=1, past=step.total - 1)

    def _to_come(self, after: tuple[int, ...], step: Pass) -> int:
        """Caches and states that a prefill has not made yet while `after` of each kind of layer are to run."""
        if step.past or not any(after):
            return 0
        total = 0
        for kind, count in zip(self.kinds, after, strict=True):
            for cache in (kind.cache, kind.indexer):
                if cache is not None and count:
                    tokens = stored_tokens(step.new, cache.window, decoded=False, static=step.static)
                    size = self._number_bytes(cache, kind, step.element_bytes)
                    total += count * cache_bytes(cache, step.batch, tokens, size)
            total += count * state_bytes(kind.state, step.batch, step.element_bytes) if kind.state else 0
            total += count * kind.folded_bytes(step.batch, step.new, step.element_bytes, decoded=False)
        return total

    def first_decode(self, step: Pass) -> Peak:
        """
        The peak of the step right after a prefill of `step.past` tokens, for models with sliding layers.

        A sliding layer pins its whole prompt until its own turn, so the first layer of each kind is where the most is held:
        those before it have shrunk to a window, those from it on have not.
        """
        best, state = 0, 3 * step.size(step.tokens * self.hidden)
        for kind in self.kinds:
            if kind.folded is not None:
                sizes = [
                    kind.folded_bytes(step.batch, tokens, step.element_bytes, decoded=decoded)
                    for tokens, decoded in ((step.past, False), (step.total, True))
                ]
                held = self._half_way(kind.before, step)
                mixed = held - sizes[0] + sizes[1] + mixer_bytes(kind.layer.mixer, step, self.traits)
                best = max(best, held + self._mixing(step), mixed)
            if (cache := kind.cache) is None:
                continue
            held = self._half_way(kind.before, step)
            stored = stored_tokens(step.total, cache.window, decoded=True)
            own = cache_bytes(cache, step.batch, stored, step.element_bytes)
            pinned = cache_bytes(cache, step.batch, step.past, step.element_bytes)
            best = max(best, held - pinned + own + mixer_bytes(kind.layer.mixer, step, self.traits))
            query = step.size(step.tokens * kind.layer.mixer.n_heads * cache.key_dim)
            if cache.window is None:  # new values are made while the old ones are alive
                old = step.size(step.batch * step.past * cache.n_heads * cache.value_dim)
                best = max(best, held - pinned + own + old + query + fresh_bytes(cache, step))
            else:
                best = max(best, held + own + query + fresh_bytes(cache, step))
        beside = state + self.state_bytes(step.batch, step.element_bytes)
        return Peak(n_bytes=best + beside + self._around(step), moment="first decode step")

    def _mixing(self, step: Pass) -> int:
        """What mixing several residual streams takes, before a layer."""
        return streams_bytes(self.traits.mixed_streams, self.hidden, step) if self.traits.mixed_streams else 0

    def _half_way(self, before: tuple[int, ...], step: Pass) -> int:
        """The cache when `before` of each kind of layer have decoded one token and the others have not."""
        total = 0
        for kind, done in zip(self.kinds, before, strict=True):
            shrunk, whole = (
                kind.folded_bytes(step.batch, tokens, step.element_bytes, decoded=decoded)
                for tokens, decoded in ((step.total, True), (step.past, False))
            )
            total += done * shrunk + (kind.count - done) * whole
            if (cache := kind.cache) is not None:
                short = stored_tokens(step.total, cache.window, decoded=True)
                total += done * cache_bytes(cache, step.batch, short, step.element_bytes)
                total += (kind.count - done) * cache_bytes(cache, step.batch, step.past, step.element_bytes)
        return total

    def sampling(self, step: Pass, logits: int = 1) -> Peak:
        """
        generate() turns the last logits into float32 and softmaxes them: B · V · (4 + 4) beside the cache and all that
        was kept, B · L · V · b, or · 4 before 4.45.
        """
        count = step.batch * logits * self.vocabulary
        kept = step.floats(count) if step.upcast else step.size(count)
        rows = 2 * step.floats(step.batch * self.vocabulary)
        return Peak(n_bytes=self.held_bytes(step) + kept + rows, moment="sampling")


def _before(kinds: list[int], n_kinds: int) -> tuple[tuple[int, ...], ...]:
    counts = [0] * n_kinds
    found: dict[int, tuple[int, ...]] = {}
    for kind in kinds:
        if kind not in found:
            found[kind] = tuple(counts)
        counts[kind] += 1
    return tuple(found[kind] for kind in range(n_kinds))


def _kind(layer: Layer, count: int, before: tuple[int, ...], after: tuple[int, ...]) -> Kind:
    mixer = layer.mixer
    folded = mixer if isinstance(mixer, CompressedAttention) else None
    return Kind(
        layer=layer,
        count=count,
        cache=growing_cache(mixer),
        indexer=None if folded else mixer.indexer,
        state=None if folded else mixer.state,
        before=before,
        after=after,
        folded=folded,
    )


def _as_run(layer: Layer, traits: Traits) -> Layer:
    """Falcon's new decoder repeats keys and values for every query head before it caches them."""
    mixer = layer.mixer
    if not traits.every_head or not isinstance(mixer, FullAttention):
        return layer
    return Layer(
        mixer=replace(mixer, n_kv_heads=mixer.n_heads), feed_forward=layer.feed_forward, norms=layer.norms
    )


def make_stack(architecture: Architecture, layers: tuple[Layer, ...], parameter_bytes: int) -> Stack:
    """
    The stack of these of a model's layers, in order.

    Buffers come on top of the parameters: two float32 tables of d/2 rotary frequencies (inv_freq and original_inv_freq).
    """
    alike = [layer for layer, _ in architecture.groups]
    known = {id(layer): kind for kind, layer in enumerate(alike)}
    numbers = [known[id(layer)] if id(layer) in known else alike.index(layer) for layer in layers]
    order = list(dict.fromkeys(numbers))
    places = [order.index(number) for number in numbers]
    before, after = _before(places, len(order)), _before(places[::-1], len(order))
    traits = traits_of(architecture)
    found = [plain_attention(alike[number].mixer) for number in order]
    inner = [one[0] for one in found if one is not None]
    rope_dim = max(
        (one.head_dim if isinstance(one, FullAttention) else one.rope_dim for one in inner), default=0
    )
    return Stack(
        kinds=tuple(
            _kind(_as_run(alike[number], traits), numbers.count(number), earlier, later)
            for number, earlier, later in zip(order, before, after, strict=True)
        ),
        hidden=architecture.hidden,
        vocabulary=architecture.vocabulary,
        rope_dim=rope_dim,
        windows=tuple({one[1] for one in found if one is not None}),
        traits=traits,
        weights_bytes=parameter_bytes + traits.rope_sets * rope_dim * FLOAT_BYTES,
    )


@lru_cache(maxsize=64)
def _layers_of(architecture: Architecture) -> Stack:
    return make_stack(architecture, architecture.layers, 0)


def whole_stack(architecture: Architecture, parameter_bytes: int) -> Stack:
    """The stack of all of a model's layers; all but its weights is made once a model."""
    bare = _layers_of(architecture)
    return replace(bare, weights_bytes=bare.weights_bytes + parameter_bytes)
