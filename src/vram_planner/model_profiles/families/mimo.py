"""MiMo 7B: Qwen 2 with a layer that drafts the token after the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.weight import Role, linear
from vram_planner.model_profiles.families.common import RMS_NORMS, attention, decoder, mlp, norms, stack
from vram_planner.model_profiles.families.qwen2 import qwen_windows

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


_DRAFT_NORMS = ("token_layernorm", "hidden_layernorm", "final_layernorm")


def build(config: Config) -> Architecture:
    """Source: XiaomiMiMo/MiMo modeling_mimo.py; read as in vLLM model_executor/models/mimo_mtp.py."""
    block = attention(config, qkv_bias=config.flag("attention_bias", default=True))
    layers = stack(block, qwen_windows(config), mlp(config), norms(block.hidden, *RMS_NORMS))
    count = config.integer("num_nextn_predict_layers", default=0, least=0)
    draft = (
        *norms(block.hidden, *_DRAFT_NORMS),
        *linear("input_proj", block.hidden, 2 * block.hidden, role=Role.JOIN),
        *layers[0].weights,
    )
    return decoder(config, layers, draft_layers=draft * count, draft_mixers=(block,) * count)
