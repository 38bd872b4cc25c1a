"""DeepSeek-V3, R1, V3.1, Kimi K2 and Moonlight: V2's layers, a load-balancing buffer, layers for drafting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, linear
from vram_planner.model_profiles.families.common import decoder, hidden_size, norms
from vram_planner.model_profiles.families.deepseek_v2 import latent_layer, latent_layers

if TYPE_CHECKING:
    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.model import Architecture, Layer
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

_DENSE_FIRST = 3


def build(config: Config) -> Architecture:
    """Source: transformers models/deepseek_v3/modeling_deepseek_v3.py; the router's bias is a buffer there."""
    layers = latent_layers(config, dense_first=_DENSE_FIRST, correction_bias=True)
    count = config.integer("num_nextn_predict_layers", default=0, least=0)
    draft: tuple[Weight, ...] = ()
    mixers: tuple[Mixer, ...] = ()
    if count:
        layer = latent_layer(
            config, experts_in=config.raw("n_routed_experts") is not None, correction_bias=True
        )
        draft, mixers = mtp_weights(hidden_size(config), layer) * count, (layer.mixer,) * count
    return decoder(config, layers, draft_layers=draft, draft_mixers=mixers)


def mtp_weights(hidden: int, layer: Layer) -> tuple[Weight, ...]:
    """
    A multi-token prediction layer: two norms, their joint projection, a decoder layer, a norm before the head.

    Embedding and head are the main model's own. Source: DeepSeek-V3, https://arxiv.org/abs/2412.19437,
    section 2.2; tensor names in vLLM deepseek_mtp.py.
    """
    return (
        *norms(hidden, "enorm", "hnorm"),
        *linear("eh_proj", hidden, 2 * hidden, role=Role.JOIN),
        *layer.weights,
        *norms(hidden, "shared_head.norm"),
    )
