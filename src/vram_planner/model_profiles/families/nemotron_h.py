"""Nemotron-H and Nemotron 3: each layer is Mamba-2, attention, a plain MLP or experts, one of them alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vram_planner.architecture.attention import NoMixer
from vram_planner.architecture.feed_forward import NoFeedForward
from vram_planner.architecture.recurrent import Mamba2
from vram_planner.architecture.weight import Role, linear
from vram_planner.errors import ConfigError
from vram_planner.model_profiles.families.common import attention, decoder, experts, hidden_size, mlp, norms
from vram_planner.model_profiles.families.hybrid import FULL, LINEAR, Parts, assemble, checked, kinds

if TYPE_CHECKING:
    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.feed_forward import MixtureOfExperts
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

_LETTERS: Final = {"M": LINEAR, "E": "moe", "*": FULL, "-": "mlp"}
_KNOWN: Final = tuple(_LETTERS.values())
_DEFAULTS: Final = {
    "vocab_size": 131_072,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "intermediate_size": 21_504,
    "mlp_bias": False,
    "ssm_state_size": 128,
    "mamba_num_heads": 128,
    "mamba_head_dim": 64,
    "n_routed_experts": 8,
    "moe_intermediate_size": 7688,
    "moe_shared_expert_intermediate_size": 7688,
    "num_experts_per_tok": 2,
    "use_bias": False,
}


def build(config: Config) -> Architecture:
    """Source: transformers models/nemotron_h/modeling_nemotron_h.py; the number of layers is the pattern's length."""
    config = _with_heads(config.with_defaults(_DEFAULTS))
    names = _pattern(config, "hybrid_override_pattern", "layers_block_type", "layer_types")
    parts = _parts(config, names)
    layers = assemble(parts[name] for name in names)
    drafts, mixers = _drafting(config)
    return decoder(config, layers, draft_layers=drafts, draft_mixers=mixers)


def _with_heads(config: Config) -> Config:
    """8 KV heads where the config is silent, as many as query heads where it says null."""
    said = config.has("num_key_value_heads")
    return config.with_defaults({"num_key_value_heads": config.raw("num_attention_heads") if said else 8})


def _pattern(config: Config, letters: str, *lists: str) -> tuple[str, ...]:
    """The kinds of layers from a list, or from a string with a letter for each."""
    if config.raw(*lists) is not None or config.raw(letters) is None:
        return kinds(config, None, _KNOWN, (LINEAR, "moe", FULL, "mlp"), keys=lists)
    text = config.text(letters)
    if not text or len(text) > 10_000 or set(text) - set(_LETTERS):  # noqa: PLR2004  as many as layers may be
        raise ConfigError(
            f"{config.where}{letters} is {text[:40]!r}",
            hint=f"write one of {' '.join(_LETTERS)} for each layer",
        )
    return tuple(_LETTERS[letter] for letter in text)


def _parts(config: Config, names: tuple[str, ...]) -> dict[str, Parts]:
    """One of each kind that is used: what is not used need not be in the config."""
    alone = norms(hidden_size(config), "norm")
    none, nothing = NoMixer(), NoFeedForward()
    made: dict[str, Any] = {
        LINEAR: lambda: Parts(_mamba(config), nothing, alone),
        FULL: lambda: Parts(attention(config), nothing, alone),
        "mlp": lambda: Parts(none, mlp(config, gated=False, bias=config.flag("mlp_bias")), alone),
        "moe": lambda: Parts(none, _experts(config), alone),
    }
    return {name: made[name]() for name in dict.fromkeys(names)}


def _mamba(config: Config) -> Mamba2:
    heads = config.integer("mamba_num_heads", most=10**5)
    width = config.integer("mamba_head_dim", most=10**5)
    bias = config.flag("use_bias")
    return checked(
        config,
        Mamba2(
            hidden=hidden_size(config),
            inner=heads * width,
            heads=heads,
            head_dim=width,
            groups=config.integer("mamba_n_groups", "n_groups", default=8, most=10**5),
            state_size=config.integer("ssm_state_size", most=10**5),
            kernel=config.integer("mamba_d_conv", "conv_kernel", default=4, most=10**3),
            conv_bias=config.flag("mamba_conv_bias", "use_conv_bias", default=True),
            bias=bias,
            out_bias=bias,
            float32_state=config.text("mamba_ssm_cache_dtype", default="float32") == "float32",
        ),
    )


def _experts(config: Config) -> MixtureOfExperts:
    """Experts without gates, behind a narrower stream where `moe_latent_size` is set. Source: NemotronHMoE."""
    bias = config.flag("mlp_bias")
    shared = mlp(
        config,
        intermediate=config.integer("moe_shared_expert_intermediate_size"),
        prefix="shared_experts.",
        gated=False,
        bias=bias,
    )
    return experts(
        config,
        count=("n_routed_experts", "num_local_experts"),
        width=("moe_intermediate_size",),
        shared=shared,
        correction_bias=True,
        gated=False,
        latent=config.optional_integer("moe_latent_size"),
        latent_bias=bias,
    )


def _drafting(config: Config) -> tuple[tuple[Weight, ...], tuple[Mixer, ...]]:
    """
    Layers for multi-token prediction: two norms, a joint projection, the layers of their pattern, a final norm.

    transformers leaves them out. The published total of Nemotron 3 Super is that of its module and these,
    to the parameter.
    """
    count = config.integer("num_nextn_predict_layers", default=0, least=0)
    if not count:
        return (), ()
    hidden = hidden_size(config)
    if config.raw("mtp_layers_block_type", "mtp_hybrid_override_pattern") is None:
        names: tuple[str, ...] = (FULL, "moe")
    else:
        names = _pattern(config, "mtp_hybrid_override_pattern", "mtp_layers_block_type")
    parts = _parts(config, names)
    blocks = tuple(
        weight
        for name in names
        for weight in (*parts[name].norms, *parts[name].mixer.weights, *parts[name].feed_forward.weights)
    )
    joint = linear("eh_proj", hidden, 2 * hidden, role=Role.JOIN)
    weights = (*norms(hidden, "enorm", "hnorm"), *joint, *blocks, *norms(hidden, "final_layernorm"))
    mixers = tuple(parts[name].mixer for name in names if name in (FULL, LINEAR))
    return weights * count, mixers * count
