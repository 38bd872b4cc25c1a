"""
The names that tensors have in a GGUF file: what `llama-server --override-tensor` looks through.

Source: llama.cpp b11434, gguf-py/gguf/constants.py (TENSOR_NAMES) and tensor_mapping.py; src/llama-arch.cpp.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_LAYER: Mapping[str, str] = MappingProxyType({
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "qkv_proj": "attn_qkv", "o_proj": "attn_output",
    "q_norm": "attn_q_norm", "k_norm": "attn_k_norm", "q_layernorm": "attn_q_norm", "k_layernorm": "attn_k_norm",
    "sinks": "attn_sinks", "g_proj": "attn_gate",
    "q_a_proj": "attn_q_a", "q_a_layernorm": "attn_q_a_norm", "q_b_proj": "attn_q_b",
    "kv_a_proj_with_mqa": "attn_kv_a_mqa", "kv_a_layernorm": "attn_kv_a_norm", "kv_b_proj": "attn_kv_b",
    "k_b_proj": "attn_k_b", "v_b_proj": "attn_v_b",
    "gate_proj": "ffn_gate", "up_proj": "ffn_up", "gate_up_proj": "ffn_up", "down_proj": "ffn_down",
    "router": "ffn_gate_inp", "router.bias": "ffn_gate_inp.bias", "router.scale": "ffn_gate_inp.scale",
    "router.correction": "exp_probs_b.bias", "router.per_expert_scale": "ffn_down_exps.scale",
    "experts.gate": "ffn_gate_exps", "experts.up": "ffn_up_exps", "experts.down": "ffn_down_exps",
    "experts.gate_up": "ffn_gate_up_exps", "shared_gate": "ffn_gate_inp_shexp",
    "shared.gate_proj": "ffn_gate_shexp", "shared.up_proj": "ffn_up_shexp", "shared.down_proj": "ffn_down_shexp",
    "fc1_latent_proj": "ffn_latent_down", "fc2_latent_proj": "ffn_latent_up",
    "input_layernorm": "attn_norm", "ln_1": "attn_norm", "ln_mlp": "attn_norm", "norm_1": "attn_norm",
    "operator_norm": "attn_norm", "ln_attn": "attn_norm_2", "norm_2": "attn_output_norm",
    "ffn_norm": "ffn_norm", "ln_2": "ffn_norm", "pre_ff_layernorm": "ffn_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_attention_layernorm": "ffn_norm", "post_self_attn_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "post_ffw_norm", "post_mlp_layernorm": "post_ffw_norm",
    "post_feedforward_layernorm_1": "post_ffw_norm_1", "post_feedforward_layernorm_2": "post_ffw_norm_2",
    "pre_feedforward_layernorm_2": "pre_ffw_norm_2", "layer_scalar": "layer_output_scale",
    "per_layer_input_gate": "inp_gate", "per_layer_projection": "proj", "post_per_layer_input_norm": "post_norm",
    "in_proj": "ssm_in", "out_proj": "ssm_out", "conv1d": "ssm_conv1d", "x_proj": "ssm_x", "dt_proj": "ssm_dt",
    "dt_bias": "ssm_dt.bias", "A_log": "ssm_a.", "D": "ssm_d.", "dt_layernorm": "ssm_dt_norm", "b_layernorm": "ssm_b_norm",
    "c_layernorm": "ssm_c_norm", "in_proj_qkv": "attn_qkv", "in_proj_z": "attn_gate", "in_proj_ba": "ssm_ba",
    "in_proj_a": "ssm_alpha", "in_proj_b": "ssm_beta",
    "indexer.k_norm": "indexer.k_norm", "indexer.weights_proj": "indexer.proj", "indexer.wk": "indexer.attn_k",
    "indexer.wq_b": "indexer.attn_q_b",
})  # fmt: skip
_OUTSIDE: Mapping[str, str] = MappingProxyType({
    "embed_tokens": "token_embd", "lm_head": "output", "positions": "position_embd",
    "norm": "output_norm", "ln_f": "output_norm", "final_layer_norm": "output_norm",
    "embed_tokens_per_layer": "per_layer_token_embd", "per_layer_model_projection": "per_layer_model_proj",
    "per_layer_projection_norm": "per_layer_proj_norm", "word_embeddings_layernorm": "token_embd_norm",
})  # fmt: skip
ROPE_FACTORS = "rope_freqs.weight"
LONG_ROPE_FACTORS = ("rope_factors_long.weight", "rope_factors_short.weight")
_SHARED = ("shared_expert.", "shared_experts.", "shared_mlp.")
_QKV = ("q_proj", "k_proj", "v_proj")
_SHORT_CONV = {"conv": "shortconv.conv", "in_proj": "shortconv.in_proj", "out_proj": "shortconv.out_proj"}
# Families whose norm between attention and the feed-forward block is called by where it comes after.
_AFTER_ATTENTION = ("glm4_moe", "qwen3_next", "qwen3_5", "gpt_oss", "solar_open", "seed_oss")
# Families whose last norm has the name of one behind the embedding.
_NORM_OF_EMBEDDING = ("lfm2",)
# A bias of the router that only chooses, as in DeepSeek's correction.
_CHOOSING_BIAS = ("ernie4_5_moe",)


def layer_tensor(name: str, index: int, model_type: str, beside: Collection[str]) -> str | None:
    """
    The name in the file of a tensor of layer `index`, 'blk.3.attn_q.weight'; None for one that we have no name for.

    `beside` are our names of all tensors of that layer, fused ones as the file has them: some names say little alone.
    """
    plain, bias = name.removeprefix("mixer.").removesuffix(".bias"), name.endswith(".bias")
    if bias and name in _LAYER:
        plain, bias = name, False
    found = _special(name, plain, model_type, beside) or _LAYER.get(plain)
    if found is None:
        return None
    if found.endswith("."):
        return f"blk.{index}.{found[:-1]}"
    if found.rpartition(".")[2] in ("bias", "scale"):
        return f"blk.{index}.{found}"
    return f"blk.{index}.{found}.{'bias' if bias else 'weight'}"


def outside_tensor(name: str, model_type: str) -> str | None:
    """The name in the file of a tensor outside the layers: 'output.weight'."""
    if name == "norm" and model_type.startswith(_NORM_OF_EMBEDDING):
        return "token_embd_norm.weight"
    plain, bias = name.removesuffix(".bias"), name.endswith(".bias")
    found = _OUTSIDE.get(plain)
    return None if found is None else f"{found}.{'bias' if bias else 'weight'}"


def _special(name: str, plain: str, model_type: str, beside: Collection[str]) -> str | None:
    if plain in _QKV and "qkv_proj" in beside:
        return "attn_qkv"
    for prefix in _SHARED:
        if plain.startswith(prefix):
            routed = "router" in beside
            part = plain.removeprefix(prefix)
            return _LAYER[f"shared.{part}"] if routed else _LAYER.get(part)
    if "conv" in beside and plain in _SHORT_CONV:
        return _SHORT_CONV[plain]
    return _norm_or_bias(name, plain, model_type, beside)


def _norm_or_bias(name: str, plain: str, model_type: str, beside: Collection[str]) -> str | None:
    if plain == "norm":  # of the layer, or of the mixer's result
        return "ssm_norm" if name.startswith("mixer.") or "input_layernorm" in beside else "attn_norm"
    if plain == "router.bias" and model_type.startswith(_CHOOSING_BIAS):
        return "exp_probs_b.bias"
    sandwich = "post_feedforward_layernorm" in beside
    if plain == "post_attention_layernorm" and (sandwich or model_type.startswith(_AFTER_ATTENTION)):
        return "post_attention_norm"
    return None
