"""
GGUF architectures with recurrent layers, or none but those: Mamba, delta rules, convolutions.

A layer attends where `attention.head_count_kv` lists a number above 0 for it. Source of each: llama.cpp's
conversion/ and src/models/, the file of that name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vram_planner.model_profiles.gguf_facts import biases, experts, shared_experts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.model_profiles.gguf_facts import Family, GgufFacts

LINEAR, FULL = "linear_attention", "full_attention"
_EVERY: Final = 4
# What conversion/mamba.py writes for every model that it converts: no figure of the model.
_ANY_CONTEXT: Final = 1 << 20
_NO_CONTEXT: Final = (
    "the file does not say what context the model was made for: llama.cpp's converter writes 1,048,576 for all of "
    "its kind"
)


def _context(facts: GgufFacts, *, told: bool = True) -> dict[str, Any]:
    """The context, with a word where it is the converter's arbitrary number; none where the model has no bound."""
    length = facts.optional("context_length")
    if length == _ANY_CONTEXT and told:
        facts.notes.append(_NO_CONTEXT)
    return {"max_position_embeddings": length if told or length != _ANY_CONTEXT else None}


def _attending(facts: GgufFacts, recurrent: str = LINEAR) -> dict[str, Any]:
    """Which layers attend, and their KV heads."""
    key = "attention.head_count_kv"
    kinds = [FULL if heads else recurrent for heads in facts.per_layer(key)]
    return {"layer_types": kinds, "num_key_value_heads": facts.where_any(key)}


def _share(facts: GgufFacts, whole: str, parts: str) -> int:
    """The width of one of equal parts."""
    total, count = facts.number(whole), facts.number(parts)
    if not 0 < count <= total or total % count:
        facts.refuse(f"{facts.name}.{parts} ({count:,}) does not divide {whole} ({total:,})")
    return total // count


def _mamba(facts: GgufFacts) -> dict[str, Any]:
    """Mamba has no bound on its context; Falcon Mamba differs by norms without weights."""
    return {
        "model_type": "falcon_mamba" if facts.raw("ssm.dt_b_c_rms") else "mamba",
        **_context(facts, told=False),
        "intermediate_size": facts.number("ssm.inner_size"),
        "state_size": facts.number("ssm.state_size"),
        "time_step_rank": facts.number("ssm.time_step_rank"),
        "conv_kernel": facts.number("ssm.conv_kernel"),
        "use_conv_bias": facts.has("ssm_conv1d.bias"),
        "use_bias": facts.has("ssm_in.bias"),
    }


def _mamba2(facts: GgufFacts) -> dict[str, Any]:
    return {
        "model_type": "mamba2",
        **_context(facts, told=False),
        "expand": _share(facts, "ssm.inner_size", "embedding_length"),
        "num_heads": facts.number("ssm.time_step_rank"),
        "head_dim": _share(facts, "ssm.inner_size", "ssm.time_step_rank"),
        "n_groups": facts.number("ssm.group_count"),
        "state_size": facts.number("ssm.state_size"),
        "conv_kernel": facts.number("ssm.conv_kernel"),
        "use_conv_bias": facts.has("ssm_conv1d.bias"),
        "use_bias": facts.has("ssm_in.bias"),
    }


def _mamba2_in_bamba(facts: GgufFacts) -> dict[str, Any]:
    """Mamba-2 under the keys of Bamba, Granite 4 and Falcon-H1."""
    return {
        "mamba_n_heads": facts.number("ssm.time_step_rank"),
        "mamba_d_head": _share(facts, "ssm.inner_size", "ssm.time_step_rank"),
        "mamba_n_groups": facts.number("ssm.group_count"),
        "mamba_d_state": facts.number("ssm.state_size"),
        "mamba_d_conv": facts.number("ssm.conv_kernel"),
        "mamba_conv_bias": facts.has("ssm_conv1d.bias"),
        "mamba_proj_bias": facts.has("ssm_in.bias"),
    }


def _nemotron_h(facts: GgufFacts) -> dict[str, Any]:
    """Each layer is one thing alone; its state is in float32, as every published config asks of vLLM."""
    key, routed = "attention.head_count_kv", set(facts.layers_with("ffn_gate_inp.weight"))
    widths = facts.per_layer("feed_forward_length")
    letters = [
        "*" if heads else "E" if index in routed else "-" if width else "M"
        for index, (heads, width) in enumerate(zip(facts.per_layer(key), widths, strict=True))
    ]
    found: dict[str, Any] = {
        "model_type": "nemotron_h",
        **_context(facts),
        "hybrid_override_pattern": "".join(letters),
        "num_key_value_heads": facts.where_any(key),
        "intermediate_size": facts.where_any("feed_forward_length") if "-" in letters else None,
        "mlp_bias": facts.has("ffn_up.bias"),
        "mamba_num_heads": facts.number("ssm.time_step_rank"),
        "mamba_head_dim": _share(facts, "ssm.inner_size", "ssm.time_step_rank"),
        "n_groups": facts.number("ssm.group_count"),
        "ssm_state_size": facts.number("ssm.state_size"),
        "conv_kernel": facts.number("ssm.conv_kernel"),
        "use_conv_bias": facts.has("ssm_conv1d.bias"),
        "use_bias": facts.has("ssm_in.bias"),
    }
    if routed:
        shared = facts.number("expert_shared_feed_forward_length") * facts.number("expert_shared_count", 1)
        found |= {
            **experts(facts),
            "moe_shared_expert_intermediate_size": shared,
            "moe_latent_size": facts.optional("moe_latent_size"),
        }
    return found


def _granite_hybrid(facts: GgufFacts) -> dict[str, Any]:
    """Granite 4.0 H; Bamba goes by the same name and has the same tensors."""
    routed = facts.number("expert_count", 0)
    width = facts.number("feed_forward_length")
    return {
        "model_type": "granitemoehybrid",
        **_context(facts),
        **_attending(facts),
        **biases(facts),
        **_mamba2_in_bamba(facts),
        "mamba_expand": _share(facts, "ssm.inner_size", "embedding_length"),
        "num_local_experts": routed,
        "num_experts_per_tok": facts.number("expert_used_count", 0) or None,
        "shared_intermediate_size": facts.optional("expert_shared_feed_forward_length") if routed else width,
    }


def _falcon_h1(facts: GgufFacts) -> dict[str, Any]:
    """Attention and Mamba-2 side by side in each layer."""
    return {
        "model_type": "falcon_h1",
        **biases(facts),
        **_mamba2_in_bamba(facts),
        "mamba_d_ssm": facts.number("ssm.inner_size"),
        "mamba_rms_norm": facts.has("ssm_norm.weight"),
        "projectors_bias": facts.has("ssm_out.bias"),
    }


def _jamba(facts: GgufFacts) -> dict[str, Any]:
    """Mamba with norms on its step, and attention and experts every so many layers."""
    attends = [index for index, heads in enumerate(facts.per_layer("attention.head_count_kv")) if heads]
    return {
        "model_type": "jamba",
        "num_key_value_heads": facts.where_any("attention.head_count_kv"),
        **_period(facts, "attn", attends),
        **_period(facts, "expert", list(facts.layers_with("ffn_gate_inp.weight"))),
        **experts(facts),
        "mamba_expand": _share(facts, "ssm.inner_size", "embedding_length"),
        "mamba_d_state": facts.number("ssm.state_size"),
        "mamba_d_conv": facts.number("ssm.conv_kernel"),
        "mamba_dt_rank": facts.number("ssm.time_step_rank"),
        "mamba_conv_bias": facts.has("ssm_conv1d.bias"),
        "mamba_proj_bias": facts.has("ssm_in.bias"),
    }


def _period(facts: GgufFacts, what: str, layers: list[int]) -> dict[str, int]:
    """Period and offset of layers that come again and again; refused where they do not."""
    first = layers[0] if layers else facts.layers
    step = layers[1] - first if len(layers) > 1 else facts.layers + 1
    if layers != list(range(first, facts.layers, step)) or first >= step:
        facts.refuse(f"layers with {what} come at no fixed distance: {layers[:6]}")
    return {f"{what}_layer_period": step, f"{what}_layer_offset": first}


def _delta(facts: GgufFacts, model_type: str) -> dict[str, Any]:
    """The gated delta rule, three layers of it to one that attends unless the file lists them."""
    recurrent = facts.flags("attention.recurrent_layers")
    if recurrent is None:
        every = facts.optional("full_attention_interval") or _EVERY
        recurrent = tuple(bool((index + 1) % every) for index in range(facts.bounded_layers))
    return {
        "model_type": model_type,
        **biases(facts),
        "layer_types": [LINEAR if each else FULL for each in recurrent],
        "num_key_value_heads": facts.where_any("attention.head_count_kv"),
        "linear_num_key_heads": facts.number("ssm.group_count"),
        "linear_num_value_heads": facts.number("ssm.time_step_rank"),
        "linear_key_head_dim": facts.number("ssm.state_size"),
        "linear_value_head_dim": _share(facts, "ssm.inner_size", "ssm.time_step_rank"),
        "linear_conv_kernel_dim": facts.number("ssm.conv_kernel"),
    }


def _shared_beside(facts: GgufFacts) -> dict[str, Any]:
    return {
        **experts(facts),
        "shared_expert_intermediate_size": facts.number("expert_shared_feed_forward_length"),
    }


def _qwen3_next(facts: GgufFacts) -> dict[str, Any]:
    return {
        **_delta(facts, "qwen3_next"),
        **_shared_beside(facts),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _qwen35(facts: GgufFacts) -> dict[str, Any]:
    """The state is in float32, as every published config asks (`mamba_ssm_dtype`, which is not in the file)."""
    found = {**_delta(facts, "qwen3_5_text"), "mamba_ssm_dtype": "float32"}
    return {**found, "mtp_num_hidden_layers": facts.number("nextn_predict_layers", 0)}


def _qwen35_moe(facts: GgufFacts) -> dict[str, Any]:
    return {**_qwen35(facts), **_shared_beside(facts), "model_type": "qwen3_5_moe_text"}


def _lfm2(facts: GgufFacts) -> dict[str, Any]:
    return {
        "model_type": "lfm2",
        **_attending(facts, "conv"),
        "conv_L_cache": facts.number("shortconv.l_cache"),
        "conv_bias": facts.has("shortconv.in_proj.bias"),
        # The file has the width itself.
        "block_auto_adjust_ff_dim": False,
    }


def _lfm2_moe(facts: GgufFacts) -> dict[str, Any]:
    return {
        **_lfm2(facts),
        **experts(facts),
        **shared_experts(facts),
        "model_type": "lfm2_moe",
        "use_expert_bias": facts.has("exp_probs_b.bias"),
    }


def _kimi_linear(facts: GgufFacts) -> dict[str, Any]:
    """Kimi delta attention, and latent attention in the layers that attend."""
    rope, width = facts.number("rope.dimension_count"), facts.number("kda.head_dim")
    return {
        "model_type": "kimi_linear",
        **_attending(facts),
        **experts(facts),
        **shared_experts(facts),
        "num_key_value_heads": facts.where_any("attention.head_count"),
        "linear_attn_config": {
            "head_dim": width,
            "num_heads": facts.shape_of("ssm_beta.weight")[0],
            "short_conv_kernel_size": facts.number("ssm.conv_kernel"),
        },
        "q_lora_rank": facts.optional("attention.q_lora_rank"),
        "kv_lora_rank": facts.number("attention.kv_lora_rank"),
        "qk_rope_head_dim": rope,
        "qk_nope_head_dim": facts.number("attention.key_length_mla") - rope,
        "v_head_dim": facts.number("attention.value_length_mla"),
    }


HYBRIDS: Final[Mapping[str, Family]] = {
    "falcon-h1": _falcon_h1,
    "granitehybrid": _granite_hybrid,
    "jamba": _jamba,
    "kimi-linear": _kimi_linear,
    "lfm2": _lfm2,
    "lfm2moe": _lfm2_moe,
    "mamba": _mamba,
    "mamba2": _mamba2,
    "nemotron_h": _nemotron_h,
    "nemotron_h_moe": _nemotron_h,
    "qwen35": _qwen35,
    "qwen35moe": _qwen35_moe,
    "qwen3next": _qwen3_next,
}
