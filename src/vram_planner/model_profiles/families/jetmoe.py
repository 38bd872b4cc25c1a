"""JetMoe: experts in the MLP and in the attention, a tied head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.cross import MixtureOfAttention
from vram_planner.architecture.model import Layer
from vram_planner.architecture.weight import Role, Weight
from vram_planner.model_profiles.families.common import RMS_NORMS, decoder, experts, n_layers, norms

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 12,
    "num_key_value_heads": 16,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 4096,
}
_HEAD_DIM = 128


def build(config: Config) -> Architecture:
    """Source: transformers models/jetmoe/modeling_jetmoe.py; the experts' sum has a shift in both blocks."""
    config = config.with_defaults(_DEFAULTS)
    feed = experts(config, count=("num_local_experts",), width=("intermediate_size",))
    mixer = MixtureOfAttention(
        hidden=feed.hidden,
        n_experts=feed.n_experts,
        top_k=feed.top_k,
        n_kv_heads=config.integer("num_key_value_heads", most=10**5),
        head_dim=config.integer("kv_channels", "head_dim", default=_HEAD_DIM, most=10**5),
    )
    shift = Weight(name="mlp.bias", shape=(feed.hidden,), role=Role.BIAS)
    layer = Layer(mixer=mixer, feed_forward=feed, norms=(*norms(feed.hidden, *RMS_NORMS), shift))
    return decoder(config, (layer,) * n_layers(config), tied=True)
