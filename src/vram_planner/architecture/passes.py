"""Layers that run without a cache of their own, more than once, or over two streams. None knows a model's name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vram_planner.architecture.attention import AroundAttention, FullAttention

if TYPE_CHECKING:
    from vram_planner.architecture.cache import KvCache
    from vram_planner.architecture.weight import Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncached(AroundAttention):
    """
    Attention of a module that keeps nothing between two tokens: it reads the whole context again (GPT-1).

    Source: transformers models/openai/modeling_openai.py, OpenAIGPTModel.forward takes no past_key_values.
    """

    inner: FullAttention

    @property
    def cache(self) -> KvCache | None:
        """None."""
        return None

    def score_flops(self, context: int) -> int:
        """Of one token of the context; that all of them are computed again is not in here."""
        return self.inner.score_flops(context)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun(AroundAttention):
    """
    One more run of a layer whose weights are counted where it runs first (a hierarchical reasoning model).

    Each run keeps keys and values of its own. `parameters` is the size of the layer that runs again.
    Work of one token: 2·P + scores, P = `parameters`. Source: transformers
    models/hrm_text/modeling_hrm_text.py, HrmTextModel.forward (`cycle_offset`).
    """

    inner: FullAttention
    parameters: int

    @property
    def weights(self) -> tuple[Weight, ...]:
        """None: the first run has them."""
        return ()

    @property
    def cache(self) -> KvCache:
        """As the attention inside."""
        return self.inner.cache

    def score_flops(self, context: int) -> int:
        """2 · parameters and the scores."""
        return 2 * self.parameters + self.inner.score_flops(context)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubleInput(AroundAttention):
    """
    Attention whose queries, keys and values are made from two streams side by side (the first layer of EAGLE-3).

    Source: vLLM 0.32 model_executor/models/llama_eagle3.py, qkv_input_size.
    """

    inner: FullAttention

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Those inside, the three projections that read the stream twice as wide."""
        hidden = self.inner.hidden
        return tuple(
            replace(weight, shape=(weight.shape[0], 2 * hidden))
            if weight.name in ("q_proj", "k_proj", "v_proj")
            else weight
            for weight in self.inner.weights
        )

    @property
    def cache(self) -> KvCache:
        """As the attention inside."""
        return self.inner.cache

    def score_flops(self, context: int) -> int:
        """As the attention inside."""
        return self.inner.score_flops(context)
