"""xLSTM 7B: matrix memories with exponential gates, no attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture.model import Layer
from vram_planner.architecture.rnn import MatrixLstm
from vram_planner.model_profiles.families.common import decoder, mlp, norms
from vram_planner.model_profiles.families.hybrid import factor

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_HIDDEN: Final = 4096
_DEFAULTS: Final = {"vocab_size": 50_304}


def build(config: Config) -> Architecture:
    """
    Source: transformers models/xlstm/modeling_xlstm.py, xLSTMLayer and xLSTMFeedForward.

    One matrix for q, k, v and gate (`weight_mode` fused) has the same numbers as four.
    """
    hidden = config.integer("hidden_size", "embedding_dim", default=_HIDDEN, most=10**6)
    config = config.with_defaults({**_DEFAULTS, "hidden_size": hidden})
    bias = config.flag("use_bias", default=False)
    mixer = MatrixLstm(
        hidden=hidden,
        heads=config.integer("num_heads", default=8, most=10**5),
        key_width=max(1, int(hidden * factor(config, "qk_dim_factor", 0.5))),
        value_width=max(1, int(hidden * factor(config, "v_dim_factor", 1.0))),
        bias=bias,
        float32_state=config.text("inference_state_dtype", default="float32") == "float32",
    )
    multiple = config.integer("ffn_round_up_to_multiple_of", default=64)
    wide = int(hidden * factor(config, "ffn_proj_factor", 2.667) + multiple - 1) // multiple * multiple
    layer = Layer(
        mixer=mixer,
        feed_forward=mlp(config, intermediate=max(1, wide), bias=bias),
        norms=norms(hidden, "norm_mlstm", "norm_ffn", bias=bias),
    )
    count = config.integer("num_hidden_layers", "num_blocks", default=32, most=10**4)
    return decoder(config, (layer,) * count)
