"""A run of layers on one card, and the live bytes of a prefill, of a decode step and of sampling over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vram_planner.architecture.attention import FullAttention, Latent, SlidingWindow
from vram_planner.engines.transformers_peaks import (
    FLOAT_BYTES,
    INDEX_BYTES,
    Pass,
    cache_bytes,
    fresh_bytes,
    layer_bytes,
    mask_bytes,
    mixer_bytes,
    rounded,
    stored_tokens,
)

if TYPE_CHECKING:
    from vram_planner.architecture.cache import KvCache
    from vram_planner.architecture.model import Architecture, Layer

# These scale or cap the logits out of place, so that two copies of them live at once (gemma2, granite: `logits / x`).
_TWO_LOGITS = frozenset(
    {"gemma2", "gemma3n", "granite", "granitemoe", "granitemoehybrid", "cohere", "cohere2"}
)

# One rotary table for sliding layers and one for the others (Gemma3RotaryEmbedding).
_TWO_ROPES = frozenset({"gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Live bytes beyond the weights at one moment, and what sets them."""

    n_bytes: int
    moment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Layers that are alike: how many, what each caches, and how many of each kind stand before the first."""

    layer: Layer
    count: int
    cache: KvCache | None
    before: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """
    Layers on one card: kinds, the widths around them, and weights.

    `windows` are the distinct windows of its layers (None: all tokens): one mask is made for each.
    """

    kinds: tuple[Kind, ...]
    hidden: int
    vocabulary: int
    rope_dim: int
    rope_sets: int
    windows: tuple[int | None, ...]
    logit_copies: int
    weights_bytes: int

    @property
    def latent(self) -> bool:
        """Whether some layer's keys and values differ in width, as MLA's do."""
        return any(isinstance(kind.layer.mixer, Latent) for kind in self.kinds)

    def kv_bytes(self, batch: int, tokens: int, element_bytes: int, *, decoded: bool) -> int:
        """Bytes of the cache of `batch` requests of `tokens` tokens: what the storages of DynamicCache hold."""
        total = 0
        for kind in self.kinds:
            if (cache := kind.cache) is not None:
                stored = stored_tokens(tokens, cache.window, decoded=decoded)
                total += kind.count * cache_bytes(cache, batch, stored, element_bytes)
        return total

    def _around(self, step: Pass) -> int:
        """Bytes that live through the whole pass: masks, rotary cos and sin, positions, windows rounded up to a block."""
        rope = 2 * self.rope_sets * step.size(step.new * self.rope_dim) + rounded(step.new * INDEX_BYTES)
        return rope + self._slack() + mask_bytes(self.windows, step)

    def _slack(self) -> int:
        """What rounding adds to the window tensors of sliding layers, eight bytes each."""
        return sum(
            kind.count * (rounded(1) - INDEX_BYTES)
            for kind in self.kinds
            if kind.cache is not None and kind.cache.window is not None
        )

    def forward(self, step: Pass, logits: int = 1) -> Peak:
        """
        The peak of one forward pass that computes the logits of the last `logits` positions.

        The cache of all layers is there when the last layer runs; each kind of layer is taken to stand last.
        """
        decoded = step.past > 0
        cache = self.kv_bytes(step.batch, step.total, step.element_bytes, decoded=decoded)
        stages = [layer_bytes(kind.layer, kind.cache, step, self.hidden) for kind in self.kinds]
        best = Peak(n_bytes=cache + self._around(step) + max(stages), moment="layer")
        table = self.logit_copies * step.size(step.batch * logits * self.vocabulary)
        last = Peak(
            n_bytes=cache + step.size(step.tokens * self.hidden) + self._slack() + table, moment="logits"
        )
        return max(best, last, key=lambda peak: peak.n_bytes)

    def first_decode(self, step: Pass) -> Peak:
        """
        The peak of the step right after a prefill of `step.past` tokens, for models with sliding layers.

        A sliding layer pins its whole prompt until its own turn, so the first layer of each kind is where the most is held:
        those before it have shrunk to a window, those from it on have not.
        """
        best, state = 0, 3 * step.size(step.tokens * self.hidden)
        for kind in self.kinds:
            if (cache := kind.cache) is None:
                continue
            held = self._half_way(kind.before, step)
            stored = stored_tokens(step.total, cache.window, decoded=True)
            own = cache_bytes(cache, step.batch, stored, step.element_bytes)
            pinned = cache_bytes(cache, step.batch, step.past, step.element_bytes)
            best = max(best, held - pinned + own + mixer_bytes(kind.layer.mixer, step))
            if cache.window is not None:
                query = step.size(step.tokens * kind.layer.mixer.n_heads * cache.key_dim)
                best = max(best, held + own + query + fresh_bytes(cache, step))
        return Peak(n_bytes=best + state + self._around(step), moment="first decode step")

    def _half_way(self, before: tuple[int, ...], step: Pass) -> int:
        """The cache when `before` of each kind of layer have decoded one token and the others have not."""
        total = 0
        for kind, done in zip(self.kinds, before, strict=True):
            if (cache := kind.cache) is not None:
                short = stored_tokens(step.total, cache.window, decoded=True)
                total += done * cache_bytes(cache, step.batch, short, step.element_bytes)
                total += (kind.count - done) * cache_bytes(cache, step.batch, step.past, step.element_bytes)
        return total

    def sampling(self, step: Pass) -> Peak:
        """generate() turns the last logits into float32 and softmaxes them: B · V · (b + 4 + 4) beside the cache."""
        cache = self.kv_bytes(step.batch, step.total, step.element_bytes, decoded=step.past > 0)
        count = step.batch * self.vocabulary
        return Peak(n_bytes=cache + step.size(count) + 2 * rounded(count * FLOAT_BYTES), moment="sampling")


def _before(kinds: list[int], n_kinds: int) -> tuple[tuple[int, ...], ...]:
    counts = [0] * n_kinds
    found: dict[int, tuple[int, ...]] = {}
    for kind in kinds:
        if kind not in found:
            found[kind] = tuple(counts)
        counts[kind] += 1
    return tuple(found[kind] for kind in range(n_kinds))


def make_stack(architecture: Architecture, layers: tuple[Layer, ...], parameter_bytes: int) -> Stack:
    """
    The stack of these of a model's layers, in order.

    Buffers come on top of the parameters: two float32 tables of d/2 rotary frequencies (inv_freq and original_inv_freq).
    """
    alike = [layer for layer, _ in architecture.groups]
    known = {id(layer): kind for kind, layer in enumerate(alike)}
    numbers = [known[id(layer)] if id(layer) in known else alike.index(layer) for layer in layers]
    order = list(dict.fromkeys(numbers))
    before = _before([order.index(number) for number in numbers], len(order))
    mixers = [alike[number].mixer for number in order]
    inner = [mixer.inner if isinstance(mixer, SlidingWindow) else mixer for mixer in mixers]
    widths = [
        one.head_dim if isinstance(one, FullAttention) else one.rope_dim if isinstance(one, Latent) else 0
        for one in inner
    ]
    rope_dim, rope_sets = max(widths, default=0), 2 if architecture.model_type in _TWO_ROPES else 1
    return Stack(
        kinds=tuple(
            Kind(
                layer=alike[number],
                count=numbers.count(number),
                cache=alike[number].mixer.cache,
                before=earlier,
            )
            for number, earlier in zip(order, before, strict=True)
        ),
        hidden=architecture.hidden,
        vocabulary=architecture.vocabulary,
        rope_dim=rope_dim,
        rope_sets=rope_sets,
        windows=tuple({mixer.window if isinstance(mixer, SlidingWindow) else None for mixer in mixers}),
        logit_copies=2 if architecture.model_type in _TWO_LOGITS else 1,
        weights_bytes=parameter_bytes + rope_sets * rope_dim * FLOAT_BYTES,
    )
