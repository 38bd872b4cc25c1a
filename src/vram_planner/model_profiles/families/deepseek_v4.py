"""DeepSeek-V4 Flash and Pro: one shared head over a window and compressed entries, streams instead of a residual."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture.sparse import CompressedAttention, Compressor
from vram_planner.architecture.weight import Role, Weight, linear
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.common import (
    RMS_NORMS,
    decoder,
    experts,
    hidden_size,
    mlp,
    n_layers,
    norms,
)
from vram_planner.model_profiles.families.patterns import SLIDING, build_layers, layer_kinds

if TYPE_CHECKING:
    from vram_planner.architecture.feed_forward import FeedForward, MixtureOfExperts
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

_CSA, _HCA = "compressed_sparse_attention", "heavily_compressed_attention"
_BY_RATIO: Final = {0: SLIDING, 4: _CSA, 128: _HCA}
_RATES: Final = {_CSA: ("compress_rate_csa", 4), _HCA: ("compress_rate_hca", 128)}
_HASH_LAYERS = 3
# DeepseekV4Config's own defaults.
_DEFAULTS = {
    "vocab_size": 129_280,
    "hidden_size": 4096,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 43,
    "num_attention_heads": 64,
    "head_dim": 512,
    "q_lora_rank": 1024,
    "num_experts_per_tok": 6,
    "n_shared_experts": 1,
    "max_position_embeddings": 1_048_576,
    "hc_mult": 4,
    "sliding_window": 128,
    "o_groups": 8,
    "o_lora_rank": 1024,
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 512,
}
_EXPERTS = 256


def build(config: Config) -> Architecture:
    """
    Source: transformers models/deepseek_v4/modeling_deepseek_v4.py, DeepseekV4DecoderLayer.

    The MTP layer of the checkpoints is not built there, so its weights are left out.
    """
    config = config.with_defaults(_DEFAULTS)
    hidden, count = hidden_size(config), n_layers(config)
    kinds = _attention_kinds(config, count)
    mixers = {kind: _mixer(config, kind) for kind in set(kinds)}
    streams = config.integer("hc_mult", most=10**3)
    layer_norms = (
        *norms(hidden, *RMS_NORMS),
        *_hyper_connection("attn_hc", hidden, streams),
        *_hyper_connection("ffn_hc", hidden, streams),
    )
    layers = build_layers([mixers[kind] for kind in kinds], _feeds(config, count), layer_norms)
    return decoder(
        config,
        layers,
        final_norm=(*norms(hidden, "norm"), *_stream_head(hidden, streams)),
        notes=("the draft (MTP) layer of DeepSeek-V4 checkpoints is not counted",),
    )


def _attention_kinds(config: Config, count: int) -> tuple[str, ...]:
    """`layer_types`, or `compress_ratios` (0, 4, 128), or two HCA layers and then HCA and CSA in turn."""
    default = tuple(_CSA if index >= 2 and index % 2 else _HCA for index in range(count))  # noqa: PLR2004
    ratios = config.integers("compress_ratios", default=())
    if ratios and config.raw("layer_types") is None:
        strange = next((ratio for ratio in ratios if ratio not in _BY_RATIO), None)
        if strange is not None:
            raise ConfigError(
                f"{config.where}compress_ratios has {strange}, which this family does not know",
                hint="it knows 0 (window alone), 4 and 128",
            )
        default = tuple(_BY_RATIO[ratio] for ratio in ratios[:count])
    return layer_kinds(config, "layer_types", count, (SLIDING, _CSA, _HCA), default)


def _mixer(config: Config, kind: str) -> CompressedAttention:
    hidden, width = hidden_size(config), config.integer("head_dim", most=10**5)
    heads, groups = (
        config.integer("num_attention_heads", most=10**5),
        config.integer("o_groups", most=10**5),
    )
    if heads % groups:
        raise ConfigError(
            f"{config.where}num_attention_heads ({heads}) is no multiple of o_groups ({groups})",
            hint="each group of the output projection takes the same number of heads: correct one of the two",
        )
    far = chooser = None
    if kind != SLIDING:
        key, usual = _RATES[kind]
        rate = config.integer(
            key, default=config.sub("compress_rates").integer(kind, default=usual, most=10**5), most=10**5
        )
        far = Compressor(hidden=hidden, width=width, stride=rate, overlap=kind == _CSA)
        if kind == _CSA:
            narrow = config.integer("index_head_dim", most=10**5)
            chooser = Compressor(
                hidden=hidden, width=narrow, stride=rate, overlap=True, prefix="compressor.indexer."
            )
    return CompressedAttention(
        hidden=hidden,
        n_heads=heads,
        head_dim=width,
        q_rank=config.integer("q_lora_rank"),
        out_groups=groups,
        out_rank=config.integer("o_lora_rank"),
        window=config.integer("sliding_window"),
        far=far,
        chooser=chooser,
        chooser_heads=config.integer("index_n_heads", most=10**5) if chooser else 0,
        top_k=config.integer("index_topk") if chooser else None,
    )


def _feeds(config: Config, count: int) -> list[FeedForward]:
    """The first layers choose experts by the token's number, the others by their scores."""
    hashed = config.integer("num_hash_layers", default=_HASH_LAYERS, least=0)
    default = ["hash_moe" if index < hashed else "moe" for index in range(count)]
    kinds = layer_kinds(config, "mlp_layer_types", count, ("hash_moe", "moe"), default)
    blocks = {"hash_moe": _experts(config, scored=False), "moe": _experts(config, scored=True)}
    return [blocks[kind] for kind in kinds]


def _experts(config: Config, *, scored: bool) -> MixtureOfExperts:
    """
    Routed experts and one shared block of the same width, whatever `n_shared_experts` says.

    The table of a hash layer, vocab_size × num_experts_per_tok 8-byte integers, is a buffer that is not counted.
    """
    count = config.raw("n_routed_experts", "num_local_experts")
    return experts(
        config.with_defaults({"n_routed_experts": _EXPERTS if count is None else count}),
        count=("n_routed_experts",),
        width=("moe_intermediate_size",),
        correction_bias=scored,
        shared=mlp(
            config,
            intermediate=config.integer("moe_intermediate_size"),
            bias=config.flag("mlp_bias", default=False),
            prefix="shared_experts.",
        ),
    )


def _hyper_connection(name: str, hidden: int, streams: int) -> tuple[Weight, ...]:
    """
    What mixes `streams` residual streams around a block: pre, post and comb weights from all of them.

    Source: DeepseekV4HyperConnection.
    """
    wide = (2 + streams) * streams
    return (
        *linear(f"{name}.fn", wide, streams * hidden, role=Role.JOIN),
        Weight(name=f"{name}.base", shape=(wide,), role=Role.BIAS),
        Weight(name=f"{name}.scale", shape=(3,), role=Role.BIAS),
    )


def _stream_head(hidden: int, streams: int) -> tuple[Weight, ...]:
    """What folds the streams into one before the final norm. Source: DeepseekV4HyperHead."""
    return (
        *linear("hc_head.hc_fn", streams, streams * hidden, role=Role.JOIN),
        Weight(name="hc_head.hc_base", shape=(streams,), role=Role.BIAS),
        Weight(name="hc_head.hc_scale", shape=(1,), role=Role.BIAS),
    )
