"""
GGUF architectures in the words of transformers: for each the config keys that its metadata and tensors stand for.

A file does not say everything: what the converter drops (a window that llama.cpp ignores) stays unknown, and whether
there are biases or norms is seen from the tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vram_planner.model_profiles.gguf_architecture import GgufFacts

    Family = Callable[[GgufFacts], dict[str, Any]]


def _biases(facts: GgufFacts) -> dict[str, Any]:
    return {
        "attention_bias": facts.has("attn_q.bias") or facts.has("attn_qkv.bias"),
        "mlp_bias": facts.has("ffn_up.bias"),
    }


def _plain(model_type: str) -> Family:
    """A family that needs no more than sizes and biases."""
    return lambda facts: {"model_type": model_type, **_biases(facts)}


def _experts(facts: GgufFacts) -> dict[str, Any]:
    """Number, use and width of experts under each of the names that configs have for them."""
    count, width = facts.number("expert_count"), facts.optional("expert_feed_forward_length")
    return {
        **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), count),
        **dict.fromkeys(("num_experts_per_tok", "moe_k"), facts.number("expert_used_count")),
        "moe_intermediate_size": width or facts.optional("feed_forward_length"),
    }


def _shared_experts(facts: GgufFacts) -> dict[str, Any]:
    n_shared = facts.number("expert_shared_count", 0)
    return {
        "n_shared_experts": n_shared,
        "moe_num_shared_experts": n_shared,
        "first_k_dense_replace": facts.number("leading_dense_block_count", 0),
        "num_nextn_predict_layers": facts.number("nextn_predict_layers", 0),
    }


def _window(facts: GgufFacts) -> dict[str, Any]:
    """The window, and which layers have it where the file lists them."""
    pattern = facts.raw("attention.sliding_window_pattern")
    found: dict[str, Any] = {"sliding_window": facts.optional("attention.sliding_window")}
    if isinstance(pattern, tuple) and found["sliding_window"]:
        layers = facts.number("block_count")
        slides = ["sliding_attention" if slide else "full_attention" for slide in pattern[:layers]]
        found["layer_types"] = slides
    elif isinstance(pattern, int) and pattern > 0:
        found["sliding_window_pattern"] = pattern
    return found


def _llama(facts: GgufFacts) -> dict[str, Any]:
    """Llama, Mistral and Mixtral share one name; a window of Mistral 7B v0.1 is not in the file."""
    if facts.number("expert_count", 0):
        return {"model_type": "mixtral", **_experts(facts)}
    return _plain("llama")(facts)


def _mistral(facts: GgufFacts) -> dict[str, Any]:
    return {"model_type": "mistral", "sliding_window": None, **_biases(facts)}


def _qwen2_moe(facts: GgufFacts) -> dict[str, Any]:
    rows = facts.optional("expert_shared_feed_forward_length") or facts.rows("blk.0.ffn_up_shexp.weight")
    return {"model_type": "qwen2_moe", **_experts(facts), "shared_expert_intermediate_size": rows}


def _qwen3_moe(facts: GgufFacts) -> dict[str, Any]:
    return {"model_type": "qwen3_moe", **_biases(facts), **_experts(facts)}


def _windowed(model_type: str) -> Family:
    """A family whose config says how many layers slide."""
    return lambda facts: {"model_type": model_type, **_biases(facts), **_window(facts)}


def _deepseek2(facts: GgufFacts) -> dict[str, Any]:
    """V3 has a bias in its router that V2 has not; files before 2025-04 have no *_mla keys."""
    rope = facts.number("rope.dimension_count")
    keys = facts.optional("attention.key_length_mla") or facts.number("attention.key_length")
    third = facts.has("exp_probs_b.bias")
    return {
        "model_type": "deepseek_v3" if third else "deepseek_v2",
        **(_experts(facts) if facts.number("expert_count", 0) else {}),
        **_shared_experts(facts),
        "num_key_value_heads": facts.number("attention.head_count"),
        "q_lora_rank": facts.optional("attention.q_lora_rank"),
        "kv_lora_rank": facts.number("attention.kv_lora_rank"),
        "qk_rope_head_dim": rope,
        "qk_nope_head_dim": keys - rope,
        "v_head_dim": facts.optional("attention.value_length_mla") or facts.number("attention.value_length"),
    }


def _gpt_oss(facts: GgufFacts) -> dict[str, Any]:
    width = facts.number("expert_feed_forward_length")
    return {
        "model_type": "gpt_oss",
        **_biases(facts),
        **_experts(facts),
        **_window(facts),
        "intermediate_size": width,
    }


def _starcoder2(facts: GgufFacts) -> dict[str, Any]:
    return {"model_type": "starcoder2", "use_bias": facts.has("attn_q.bias")}


def _cohere(facts: GgufFacts) -> dict[str, Any]:
    return {"model_type": "cohere", **_biases(facts), "use_qk_norm": facts.has("attn_q_norm.weight")}


def _olmo2(facts: GgufFacts) -> dict[str, Any]:
    """OLMo 3 goes by the name of OLMo 2 and has a window."""
    if facts.optional("attention.sliding_window"):
        return {"model_type": "olmo3", **_biases(facts), **_window(facts)}
    return _plain("olmo2")(facts)


def _olmoe(facts: GgufFacts) -> dict[str, Any]:
    return {"model_type": "olmoe", **_biases(facts), **_experts(facts)}


def _glm4_moe(facts: GgufFacts) -> dict[str, Any]:
    own = {"model_type": "glm4_moe", "use_qk_norm": facts.has("attn_q_norm.weight")}
    return {**own, **_biases(facts), **_experts(facts), **_shared_experts(facts)}


def _dots1(facts: GgufFacts) -> dict[str, Any]:
    return {"model_type": "dots1", **_biases(facts), **_experts(facts), **_shared_experts(facts)}


def _ernie(facts: GgufFacts) -> dict[str, Any]:
    return {"model_type": "ernie4_5", "use_bias": facts.has("attn_q.bias")}


def _ernie_moe(facts: GgufFacts) -> dict[str, Any]:
    return {
        "model_type": "ernie4_5_moe",
        "use_bias": facts.has("attn_q.bias"),
        **_experts(facts),
        **_shared_experts(facts),
        "moe_layer_start_index": facts.number("leading_dense_block_count", 0),
        "moe_layer_interval": max(1, facts.number("interleave_moe_layer_step", 1)),
    }


def _stablelm(facts: GgufFacts) -> dict[str, Any]:
    return {
        "model_type": "stablelm",
        "use_qkv_bias": facts.has("attn_q.bias"),
        "qk_layernorm": facts.has("attn_q_norm.weight"),
        "use_parallel_residual": not facts.has("ffn_norm.weight"),
    }


def _falcon(facts: GgufFacts) -> dict[str, Any]:
    """The newer architecture (40B, 180B) has two norms side by side."""
    kv_heads = facts.number("attention.head_count_kv", facts.number("attention.head_count"))
    return {
        "model_type": "falcon",
        "new_decoder_architecture": facts.has("attn_norm_2.weight"),
        "num_kv_heads": kv_heads,
        "ffn_hidden_size": facts.number("feed_forward_length"),
        "bias": facts.has("attn_qkv.bias"),
    }


def _minimax(facts: GgufFacts) -> dict[str, Any]:
    experts = _experts(facts)
    return {"model_type": "minimax_m2", **experts, "intermediate_size": experts["moe_intermediate_size"]}


def _seed_oss(facts: GgufFacts) -> dict[str, Any]:
    return {"model_type": "seed_oss", **_biases(facts), "attention_out_bias": facts.has("attn_output.bias")}


def _phimoe(facts: GgufFacts) -> dict[str, Any]:
    own = {"model_type": "phimoe", "lm_head_bias": "output.bias" in facts.shapes}
    return {**own, **_biases(facts), **_experts(facts), **_window(facts)}


def _gpt2(facts: GgufFacts) -> dict[str, Any]:
    return {"model_type": "gpt2", "n_positions": facts.rows("position_embd.weight")}


FAMILIES: Final[Mapping[str, Family]] = {
    "bloom": _plain("bloom"),
    "chatglm": _plain("glm"),
    "cohere2": _windowed("cohere2"),
    "command-r": _cohere,
    "deepseek2": _deepseek2,
    "dots1": _dots1,
    "ernie4_5": _ernie,
    "ernie4_5-moe": _ernie_moe,
    "exaone4": _windowed("exaone4"),
    "falcon": _falcon,
    "gemma": _plain("gemma"),
    "gemma2": _windowed("gemma2"),
    "gemma3": _windowed("gemma3_text"),
    "glm4": _plain("glm4"),
    "glm4moe": _glm4_moe,
    "gpt-oss": _gpt_oss,
    "gpt2": _gpt2,
    "gptneox": _plain("gpt_neox"),
    "granite": _plain("granite"),
    "llama": _llama,
    "minimax-m2": _minimax,
    "mistral3": _mistral,
    "olmo": _plain("olmo"),
    "olmo2": _olmo2,
    "olmoe": _olmoe,
    "phi2": _plain("phi"),
    "phi3": _windowed("phi3"),
    "phimoe": _phimoe,
    "qwen2": _plain("qwen2"),
    "qwen2moe": _qwen2_moe,
    "qwen2vl": _plain("qwen2"),
    "qwen3": _plain("qwen3"),
    "qwen3moe": _qwen3_moe,
    "qwen3vl": _plain("qwen3"),
    "qwen3vlmoe": _qwen3_moe,
    "seed_oss": _seed_oss,
    "smollm3": _plain("smollm3"),
    "stablelm": _stablelm,
    "starcoder2": _starcoder2,
}
