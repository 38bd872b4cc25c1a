"""Zamba 2: Mamba-2 throughout, and shared blocks of attention and MLP with an adapter for each layer that runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture.recurrent import Mamba2
from vram_planner.architecture.weight import linear
from vram_planner.model_profiles.families.common import decoder, hidden_size, mlp
from vram_planner.model_profiles.families.hybrid import LINEAR, checked, kinds
from vram_planner.model_profiles.families.zamba import HYBRID, refuse_untied, shared_attention, shared_layers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

_DEFAULTS: Final = {
    "vocab_size": 32_000,
    "hidden_size": 2560,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "mamba_d_state": 64,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_ngroups": 1,
    "n_mamba_heads": 8,
    "num_mem_blocks": 1,
    "adapter_rank": 128,
}
_HYBRIDS: Final = frozenset((6, 12, 18, 24, 30, 36, 42, 47, 51))
_LAYERS: Final = 54


def build(config: Config) -> Architecture:
    """
    Source: transformers models/zamba2/modeling_zamba2.py and Zamba2Config.__post_init__.

    Widths of the attention follow from hidden size and heads, whatever the config says of them.
    """
    config = config.with_defaults(_DEFAULTS)
    refuse_untied(config)
    hidden = hidden_size(config)
    usual = tuple(HYBRID if index in _HYBRIDS else LINEAR for index in range(_LAYERS))
    found = kinds(config, None, (LINEAR, HYBRID), usual, keys=("layers_block_type",))
    bias = config.flag("add_bias_linear", default=False)
    feed = mlp(
        config, intermediate=config.integer("intermediate_size", default=4 * hidden), fused=True, bias=bias
    )
    blocks = [(shared_attention(config), feed)] * config.integer("num_mem_blocks", most=100)
    layers = shared_layers(_mamba(config, bias=bias), found, blocks, _adapters(config, feed.intermediate))
    return decoder(config, layers, tied=True)


def _mamba(config: Config, *, bias: bool) -> Mamba2:
    hidden, heads = hidden_size(config), config.integer("n_mamba_heads", most=10**5)
    inner = config.integer("mamba_expand", most=10**3) * hidden
    return checked(
        config,
        Mamba2(
            hidden=hidden,
            inner=inner,
            heads=heads,
            head_dim=max(1, inner // heads),
            groups=config.integer("mamba_ngroups", most=10**5),
            state_size=config.integer("mamba_d_state", most=10**5),
            kernel=config.integer("mamba_d_conv", most=10**3),
            bias=bias,
            out_bias=bias,
        ),
    )


def _adapters(config: Config, intermediate: int) -> tuple[Weight, ...]:
    """Low-rank additions to gate and up, and to q, k and v where the config asks for them. Source: Zamba2MLP."""
    hidden, rank = hidden_size(config), config.integer("adapter_rank")
    found = _pair("gate_up_proj_adapter", hidden, rank, 2 * intermediate)
    if config.flag("use_shared_attention_adapter", default=False):
        for letter in "qkv":
            found += _pair(f"linear_{letter}_adapter", 2 * hidden, rank, 2 * hidden)
    return found


def _pair(name: str, into: int, rank: int, out: int) -> tuple[Weight, ...]:
    return (*linear(f"{name}.0", rank, into), *linear(f"{name}.1", out, rank))
