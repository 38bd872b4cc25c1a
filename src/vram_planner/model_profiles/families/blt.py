"""Byte Latent Transformer: narrow layers over bytes, wide ones over patches of bytes, a small model that cuts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vram_planner.architecture.feed_forward import DenseMLP
from vram_planner.architecture.model import Layer
from vram_planner.architecture.sparse import PatchAttention
from vram_planner.architecture.weight import Role, Weight, linear
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    attention,
    decoder,
    hidden_size,
    n_layers,
    norms,
    with_window,
)
from vram_planner.model_profiles.families.towers import tower_weights

if TYPE_CHECKING:
    from vram_planner.architecture.attention import FullAttention
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_BYTE_GROUPS = (3, 4, 5, 6, 7, 8)
# Defaults of BltLocalEncoderConfig, BltLocalDecoderConfig, BltGlobalTransformerConfig and BltPatcherConfig.
_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "encoder_config": {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 1},
    "decoder_config": {
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "num_hidden_layers": 9,
        "intermediate_size": 2816,
    },
    "global_config": {
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "num_hidden_layers": 25,
        "intermediate_size": 5632,
    },
    "patcher_config": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "num_hidden_layers": 14,
        "intermediate_size": 2048,
        "vocab_size": 260,
    },
}


def build(config: Config) -> Architecture:
    """Source: transformers models/blt/modeling_blt.py, BltModel; defaults of BltConfig."""
    encoder, shell, core = (
        _part(config, name) for name in ("encoder_config", "decoder_config", "global_config")
    )
    width, rows = hidden_size(encoder), config.integer("vocab_size", default=260)
    inner_rows = encoder.integer("vocab_size", default=260)
    if hidden_size(shell) != width or inner_rows != rows:
        raise ConfigError(
            "encoder and decoder of the byte latent transformer differ in width or vocabulary",
            hint="hidden_size of encoder_config and decoder_config, and vocab_size, must be the same",
        )
    window = config.integer("local_attention_window_len", default=512)
    layers = (
        *_bytes(encoder, window, cross_everywhere=False),
        *_patches(core, config.integer("patch_size", default=4)),
        *_bytes(shell, window, cross_everywhere=True),
    )
    text = config.replaced({"hidden_size": width, "vocab_size": rows, "tie_word_embeddings": False})
    return decoder(
        text,
        layers,
        embedding_extras=(*_hash_table(config, width), *_joints(config, encoder, shell, core)),
        towers=_patcher(config),
        notes=("patches are as long as the text makes them: patch_size is taken for all",),
    )


def _part(config: Config, name: str) -> Config:
    return config.sub(name).with_defaults(_DEFAULTS[name])


def _inner(part: Config) -> int:
    """The MLP's width: where silent, 8/3 of the layer's."""
    return part.optional_integer("intermediate_size") or 8 * hidden_size(part) // 3


def _layer(part: Config, window: int | None, crossed: tuple[Weight, ...]) -> Layer:
    block = attention(part)
    return Layer(
        mixer=with_window(block, window),
        feed_forward=DenseMLP(hidden=block.hidden, intermediate=_inner(part)),
        norms=(*norms(block.hidden, *RMS_NORMS), *crossed),
    )


def _bytes(part: Config, window: int, *, cross_everywhere: bool) -> tuple[Layer, ...]:
    """Layers over bytes, of which the first or all are followed by attention between bytes and patches."""
    count = n_layers(part)
    with_cross = _layer(part, window, _cross(attention(part)))
    if part.flag("cross_attn_all_layers", default=cross_everywhere):
        return (with_cross,) * count
    return (with_cross, *(_layer(part, window, ()),) * (count - 1))


def _cross(block: FullAttention) -> tuple[Weight, ...]:
    """Source: BltCrossAttention."""
    renamed = (
        Weight(name=f"cross_attn.{weight.name}", shape=weight.shape, role=weight.role, units=weight.units)
        for weight in block.weights
    )
    return (*renamed, *norms(block.hidden, "cross_attn.q_norm", "cross_attn.k_norm"))


def _patches(part: Config, stride: int) -> tuple[Layer, ...]:
    block = attention(part)
    layer = Layer(
        mixer=PatchAttention(inner=block, stride=stride),
        feed_forward=DenseMLP(hidden=block.hidden, intermediate=_inner(part)),
        norms=norms(block.hidden, *RMS_NORMS),
    )
    return (layer,) * n_layers(part)


def _hash_table(config: Config, width: int) -> tuple[Weight, ...]:
    """Embeddings of groups of 3 to 8 bytes, found by their hash."""
    groups = len(config.integers("encoder_hash_byte_group_size", default=_BYTE_GROUPS) or _BYTE_GROUPS)
    rows = config.integer("encoder_hash_byte_group_vocab", default=500_002) * groups
    rows *= config.integer("encoder_hash_byte_group_nb_functions", default=1, most=10**3)
    return (Weight(name="encoder_hash_tok_embedding", shape=(rows, width), role=Role.EMBEDDING, units=rows),)


def _joints(config: Config, encoder: Config, shell: Config, core: Config) -> tuple[Weight, ...]:
    """Projections between the widths of bytes and of patches."""
    into = hidden_size(encoder) * encoder.integer("cross_attn_k", default=2, most=10**3)
    out = hidden_size(shell) * shell.integer("cross_attn_k", default=2, most=10**3)
    found = (
        *linear("local_encoder.patch_embedding_projection", into, hidden_size(encoder)),
        *linear(
            "local_decoder.patch_embedding_projection",
            out,
            shell.integer("hidden_size_global", default=2048, most=10**6),
        ),
    )
    seen = hidden_size(encoder) * config.integer("cross_attn_k", default=2, most=10**3)
    if seen != hidden_size(core):
        found += linear("token_embedding_projection", hidden_size(core), seen)
    return found


def _patcher(config: Config) -> tuple[Weight, ...]:
    """A small language model whose surprise marks where a patch ends; it runs apart, without a cache."""
    if not config.flag("patch_in_forward", default=True):
        return ()
    part = _part(config, "patcher_config")
    width, rows, depth = hidden_size(part), part.integer("vocab_size"), n_layers(part)
    shapes = [weight.shape for weight in _layer(part, None, ()).weights]
    outside = tower_weights("patcher", (rows, width), (width,), (rows, width))
    return outside + tower_weights("patcher.layers", *((depth, *shape) for shape in shapes))
