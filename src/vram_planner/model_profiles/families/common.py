"""What most decoders share: sizes, grouped-query attention, gated MLP, norms, windows, the whole put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.architecture.attention import FullAttention, SlidingWindow
from vram_planner.architecture.feed_forward import DenseMLP, MixtureOfExperts
from vram_planner.architecture.model import Architecture, Layer
from vram_planner.architecture.weight import norm
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.stored import stored_precision
from vram_planner.model_profiles.stored_cache import stored_kv_dtype, stored_kv_format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

RMS_NORMS = ("input_layernorm", "post_attention_layernorm")
_LONGEST_STRETCH = 1 << 12
SANDWICH_NORMS = (*RMS_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")


def hidden_size(config: Config, default: int | None = None) -> int:
    """Width of the residual stream."""
    return config.integer("hidden_size", "n_embd", "d_model", default=default, most=10**6)


def n_layers(config: Config, default: int | None = None) -> int:
    """Number of decoder layers."""
    return config.integer("num_hidden_layers", "n_layer", "num_layers", default=default)


def unless_null(config: Config, key: str, default: int) -> int | None:
    """A family's default where the key is absent; None where it is null, which says "derive it"."""
    return None if config.has(key) else default


def attention(
    config: Config, *, head_dim: int | None = None, kv_heads: int | None = None, **features: Any
) -> FullAttention:
    """
    Grouped-query attention as the config states it; `features` are FullAttention's own fields.

    `head_dim` and `kv_heads` are the family's defaults where the config is silent: otherwise
    hidden_size / num_attention_heads, and as many KV heads as query heads.
    """
    hidden = hidden_size(config)
    heads = config.integer("num_attention_heads", "n_head", most=10**5)
    keys = config.integer("num_key_value_heads", default=kv_heads or heads, most=10**5)
    if heads % keys:
        raise ConfigError(
            f"{config.where}num_attention_heads ({heads}) is no multiple of num_key_value_heads ({keys})",
            hint="each KV head serves the same number of query heads: correct one of the two",
        )
    return FullAttention(
        hidden=hidden,
        n_heads=heads,
        n_kv_heads=keys,
        head_dim=config.integer(
            "head_dim", default=head_dim or _even_share(config, hidden, heads), most=10**5
        ),
        **features,
    )


def _even_share(config: Config, hidden: int, heads: int) -> int:
    if hidden % heads and config.raw("head_dim") is None:
        raise ConfigError(
            f"{config.where}hidden_size ({hidden}) is no multiple of num_attention_heads ({heads})",
            hint="correct one of the two, or add 'head_dim'",
        )
    return max(1, hidden // heads)


def mlp(config: Config, *, intermediate: int | None = None, **features: Any) -> DenseMLP:
    """A gated MLP of `intermediate_size`; `features` are DenseMLP's own fields."""
    width = intermediate or config.integer("intermediate_size", "n_inner", "ffn_dim")
    return DenseMLP(hidden=hidden_size(config), intermediate=width, **features)


def experts(
    config: Config, *, count: Sequence[str], width: Sequence[str], top_k: int | None = None, **features: Any
) -> MixtureOfExperts:
    """
    A mixture of experts; `count` and `width` are the keys that hold their number and size.

    `features` are MixtureOfExperts' own fields.
    """
    n_experts = config.integer(*count, most=10**5)
    used = config.integer("num_experts_per_tok", "experts_per_token", "moe_topk", default=top_k, most=10**5)
    if used > n_experts:
        raise ConfigError(
            f"{config.where}num_experts_per_tok ({used}) is above the number of experts ({n_experts})",
            hint=f"correct 'num_experts_per_tok' or {count[0]!r}",
        )
    return MixtureOfExperts(
        hidden=hidden_size(config),
        n_experts=n_experts,
        top_k=used,
        expert_intermediate=config.integer(*width),
        **features,
    )


def norms(width: int, *names: str, bias: bool = False) -> tuple[Weight, ...]:
    """One norm of `width` for each name."""
    return tuple(weight for name in names for weight in norm(name, width, bias=bias))


def windows(
    config: Config, count: int, *, window: int | None, every: int | None = None
) -> tuple[int | None, ...]:
    """
    The window of each layer, None where it looks at everything.

    `layer_types` decides where the config has it; else each `every`-th layer is full and the others
    slide (Gemma: 2 or 6, Cohere 2: 4); with `every` None all slide.
    """
    kinds = config.texts("layer_types", default=())
    if kinds:
        if len(kinds) != count:
            raise ConfigError(
                f"{config.where}layer_types names {len(kinds)} layers of {count}",
                hint="give one entry for each of num_hidden_layers",
            )
        known = {"full_attention": None, "sliding_attention": window}
        strange = next((kind for kind in kinds if kind not in known), None)
        if strange is not None:
            raise ConfigError(
                f"{config.where}layer_types has {strange[:40]!r}, which this family does not know",
                hint="it knows full_attention and sliding_attention",
            )
        return tuple(known[kind] for kind in kinds)
    if every is None:
        return (window,) * count
    return tuple(window if (index + 1) % every else None for index in range(count))


def with_window(inner: FullAttention, window: int | None) -> Mixer:
    """The attention, bounded where there is a window."""
    return inner if window is None else SlidingWindow(inner=inner, window=window)


def stack(
    attention_: FullAttention,
    widths: Sequence[int | None],
    blocks: FeedForward | Sequence[FeedForward],
    layer_norms: tuple[Weight, ...],
) -> tuple[Layer, ...]:
    """One layer for each window; equal layers are one object, so that a deep model stays small."""
    feeds = blocks if isinstance(blocks, list | tuple) else [blocks] * len(widths)
    made: dict[tuple[int | None, int], Layer] = {}
    layers = []
    for window, feed in zip(widths, feeds, strict=True):
        key = (window, id(feed))
        if key not in made:
            made[key] = Layer(mixer=with_window(attention_, window), feed_forward=feed, norms=layer_norms)
        layers.append(made[key])
    return tuple(layers)


def decoder(
    config: Config,
    layers: tuple[Layer, ...],
    *,
    tied: bool = False,
    final_norm: tuple[Weight, ...] | None = None,
    notes: tuple[str, ...] = (),
    vocabulary: int | None = None,
    max_context: int | None = None,
    **rest: Any,
) -> Architecture:
    """
    The whole model. `tied`, `vocabulary` and `max_context` are what transformers takes where the config is silent.

    `rest` are Architecture's own fields.
    """
    hidden = hidden_size(config)
    precision, remarks = stored_precision(config, layers)
    return Architecture(
        model_type=config.text("model_type", default=config.where.rstrip(".") or "unknown"),
        hidden=hidden,
        vocabulary=config.integer("vocab_size", "padded_vocab_size", default=vocabulary),
        layers=layers,
        precision=precision,
        tied_head=config.flag("tie_word_embeddings", default=tied),
        final_norm=norms(hidden, "norm") if final_norm is None else final_norm,
        max_context=config.optional_integer("max_position_embeddings", "n_positions", "max_sequence_length")
        or max_context,
        kv_dtype=stored_kv_dtype(config),
        kv_dtype_by=stored_kv_format(config),
        notes=(*notes, *remarks),
        **_rope(config),
        **rest,
    )


def _rope(config: Config) -> dict[str, Any]:
    """What scaling does to a table of rotary angles: linear ones are `factor` times as long (vLLM linear_scaling_rope.py)."""
    scaling = config.raw("rope_parameters", "rope_scaling")
    if not isinstance(scaling, dict):
        return {}
    inner = scaling.get("full_attention")
    scaling = inner if isinstance(inner, dict) else scaling
    kind, factor = scaling.get("rope_type", scaling.get("type")), scaling.get("factor")
    linear = kind == "linear" and isinstance(factor, int | float) and 1 <= factor <= _LONGEST_STRETCH
    mrope = kind == "mrope" or "mrope_section" in scaling
    return {"rope_stretch": int(factor) if linear and factor else 1, "mrope": mrope}
