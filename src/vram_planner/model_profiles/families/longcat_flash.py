"""LongCat-Flash: each layer has latent attention and an MLP twice over, with experts beside the first pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.feed_forward import MixtureOfExperts
from vram_planner.architecture.model import Layer
from vram_planner.model_profiles.families.common import RMS_NORMS, decoder, hidden_size, mlp, norms
from vram_planner.model_profiles.families.deepseek_v2 import latent_attention

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_DEFAULTS = {
    "vocab_size": 131_072,
    "hidden_size": 6144,
    "num_attention_heads": 64,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "max_position_embeddings": 131_072,
}
_LAYERS, _WIDTH, _EXPERT_WIDTH, _EXPERTS, _TOP_K, _ZERO_EXPERTS = 28, 12_288, 2048, 512, 12, 256


def build(config: Config) -> Architecture:
    """
    Source: transformers models/longcat_flash/modeling_longcat_flash.py.

    One layer there is two here, for each attention keeps a cache of its own. A zero expert gives its input back
    (nn.Identity) and has no parameters: the published total of LongCat-Flash is 560 B. The module of transformers
    5.23 sizes its gate and up projections for them nevertheless, 741 B in all; that is told, not counted.
    """
    config = config.with_defaults(_DEFAULTS)
    hidden, mixer, around = (
        hidden_size(config),
        latent_attention(config),
        norms(hidden_size(config), *RMS_NORMS),
    )
    count = config.integer("num_layers", default=_LAYERS, most=10**4)
    width = config.integer("ffn_hidden_size", "intermediate_size", default=_WIDTH)
    zero = config.integer("zero_expert_num", default=_ZERO_EXPERTS, least=0, most=10**5)
    expert = config.integer("expert_ffn_hidden_size", "moe_intermediate_size", default=_EXPERT_WIDTH)
    sparse = MixtureOfExperts(
        hidden=hidden,
        n_experts=config.integer("n_routed_experts", "num_local_experts", default=_EXPERTS, most=10**5),
        top_k=config.integer("moe_topk", "num_experts_per_tok", default=_TOP_K, most=10**5),
        expert_intermediate=expert,
        shared=mlp(config, intermediate=width, prefix="mlps.0."),
        router_bias=config.flag("router_bias", default=False),
        correction_bias=True,
        zero_experts=zero,
    )
    first = Layer(mixer=mixer, feed_forward=sparse, norms=around)
    second = Layer(mixer=mixer, feed_forward=mlp(config, intermediate=width), norms=around)
    spare = count * zero * 2 * expert * hidden
    return decoder(config, (first, second) * count, unstored=spare, notes=_notes(spare))


def _notes(spare: int) -> tuple[str, ...]:
    if not spare:
        return ()
    text = f"transformers' own module also allocates matrices for the zero experts, {spare:,} parameters"
    return (f"{text}, which no checkpoint and no other engine holds: they are not counted",)
