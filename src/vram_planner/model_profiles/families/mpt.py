"""MPT 7B and 30B: positions as slopes, no biases at all, a tied head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.errors import UnsupportedArchitectureError
from vram_planner.model_profiles.families.common import attention, decoder, mlp, n_layers, norms, stack
from vram_planner.model_profiles.families.names import today

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_NAMES = {
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "max_position_embeddings": "max_seq_len",
}
# All of it is in `attn_config`; transformers' module has neither, MosaicML's own code has both.
_NOT_MODELLED = {"attn_type": "multihead_attention", "qk_ln": False}


def build(config: Config) -> Architecture:
    """
    Source: transformers models/mpt/modeling_mpt.py; defaults of MptConfig.

    `learned_pos_emb` and `expansion_ratio` change nothing in that module: 4 · hidden it is.
    """
    kind = config.sub("attn_config")
    for key, only in _NOT_MODELLED.items():
        if kind.raw(key) not in (None, only):
            raise UnsupportedArchitectureError(
                f"an MPT whose attn_config has {key} other than {only} is not supported",
                hint="transformers' module has only full multi-head attention without norms on q and k",
            )
    own = today(
        config,
        _NAMES,
        hidden_size=2048,
        num_hidden_layers=24,
        num_attention_heads=16,
        max_position_embeddings=2048,
        vocab_size=50_368,
    )
    block = attention(own, fused_qkv=True)
    feed = mlp(own, intermediate=4 * block.hidden, gated=False)
    layers = stack(block, (None,) * n_layers(own), feed, norms(block.hidden, "norm_1", "norm_2"))
    return decoder(own, layers, tied=True)
