"""EAGLE-3 heads: a Llama layer over the token's embedding beside three layers' outputs of the model it drafts for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.model import Layer
from vram_planner.architecture.passes import DoubleInput
from vram_planner.architecture.weight import Role, Weight, linear
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    hidden_size,
    mlp,
    n_layers,
    norms,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_LISTENED_TO = 3
_INTEGERS = 2  # 64-bit numbers, counted in those of 32 bits that a buffer is held in


def build(config: Config) -> Architecture:
    """
    The head as vLLM makes it, the embedding among its tensors: it is shared with the model it drafts for.

    fc (H, 3·H_target), q, k and v from 2·H in the first layer, a norm more in each, an output head of
    `draft_vocab_size` rows, and a table of that many 64-bit integers from its tokens to the model's.
    Source: vLLM 0.32 model_executor/models/llama_eagle3.py.
    """
    hidden, count = hidden_size(config), n_layers(config, default=1)
    block = attention(config, qkv_bias=config.flag("attention_bias", default=False))
    around = norms(hidden, *RMS_NORMS, "hidden_norm")
    first = Layer(mixer=DoubleInput(inner=block), feed_forward=mlp(config), norms=around)
    rest = Layer(mixer=block, feed_forward=mlp(config), norms=around)
    vocabulary = config.integer("vocab_size")
    rows = config.integer("draft_vocab_size", default=vocabulary)
    seen = config.integer("target_hidden_size", default=hidden, most=10**6) * _LISTENED_TO
    head = Weight(name="draft_head", shape=(rows, hidden), role=Role.HEAD, units=rows)
    table = Weight(name="d2t", shape=(rows, _INTEGERS), role=Role.BUFFER)
    beside = (*linear("fc", hidden, seen), head, table)
    found = decoder(config, (first, *[rest] * (count - 1)), embedding_extras=beside)
    return replace(found, model_type="eagle3", tied_head=True)
