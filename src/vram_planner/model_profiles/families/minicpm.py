"""MiniCPM 1B and 2B, MiniCPM-MoE, MiniCPM 4: Llama's layers, or eight experts; a tied head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    experts,
    mlp,
    n_layers,
    norms,
    stack,
)

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config


_SPARSE = "the sparse attention of this config keeps compressed keys beside the cache: they are not counted"


def build(config: Config) -> Architecture:
    """Source: OpenBMB/MiniCPM modeling_minicpm.py; read as in vLLM model_executor/models/minicpm.py."""
    block = attention(config)
    dense = not config.integer("num_experts", default=0, least=0, most=10**5)
    feed = (
        mlp(config)
        if dense
        else experts(config, count=("num_experts",), width=("intermediate_size",), top_k=2)
    )
    layers = stack(block, (None,) * n_layers(config), feed, norms(block.hidden, *RMS_NORMS))
    notes = (_SPARSE,) if config.raw("sparse_config") is not None else ()
    return decoder(config, layers, tied=True, notes=notes)
