"""MiniMax-Text-01 and MiniMax-M1: seven layers of lightning attention to one that attends to all, experts throughout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture.recurrent import LightningAttention
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.bamba import with_heads
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    experts,
    hidden_size,
    n_layers,
    norms,
)
from vram_planner.model_profiles.families.hybrid import FULL, LINEAR, Parts, assemble, kinds

if TYPE_CHECKING:
    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS: Final = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 131_072,
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/minimax/modeling_minimax.py."""
    if config.integer("shared_intermediate_size", default=0, least=0):
        raise ConfigError(
            f"{config.where}shared_intermediate_size is not 0, which no published MiniMax has",
            hint="we know MiniMax without a shared expert: set it to 0",
        )
    config = with_heads(config.with_defaults(_DEFAULTS))
    full = attention(config)
    mixers: dict[str, Mixer] = {
        FULL: full,
        LINEAR: LightningAttention(hidden=full.hidden, heads=full.n_heads, head_dim=full.head_dim),
    }
    feed = experts(config, count=("num_local_experts", "num_experts"), width=("intermediate_size",))
    around = norms(hidden_size(config), *RMS_NORMS)
    count = n_layers(config)
    found = kinds(config, count, (LINEAR, FULL), _usual(config, count))
    return decoder(config, assemble(Parts(mixers[kind], feed, around) for kind in found))


def _usual(config: Config, count: int) -> tuple[str, ...]:
    """The first layer attends, the next does not, and so on; or `attn_type_list` of the first release's code."""
    flags = config.integers("attn_type_list", default=())
    if flags:
        return tuple(FULL if flag else LINEAR for flag in flags)
    return tuple(LINEAR if index % 2 else FULL for index in range(count))
