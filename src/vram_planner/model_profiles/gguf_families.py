"""
GGUF architectures in the words of transformers: for each the config keys that its metadata and tensors stand for.

A file does not say everything: what the converter drops (a window that llama.cpp ignores) stays unknown, and whether
there are biases or norms is seen from the tensors. Here are the dense families, and the register of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vram_planner.model_profiles.gguf_facts import biases, experts, plain
from vram_planner.model_profiles.gguf_families_experts import EXPERTS
from vram_planner.model_profiles.gguf_families_hybrid import HYBRIDS
from vram_planner.model_profiles.gguf_families_window import WINDOWED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.model_profiles.gguf_facts import Family, GgufFacts


def _llama(facts: GgufFacts) -> dict[str, Any]:
    """Llama, Mistral and Mixtral share one name; a window of Mistral 7B v0.1 is not in the file."""
    if facts.number("expert_count", 0):
        return {"model_type": "mixtral", **experts(facts)}
    return plain("llama")(facts)


def _mistral(facts: GgufFacts) -> dict[str, Any]:
    return {"model_type": "mistral", "sliding_window": None, **biases(facts)}


def _starcoder2(facts: GgufFacts) -> dict[str, Any]:
    """All that are published have a window of 4,096, which llama.cpp ignores: the file does not say it."""
    facts.notes.append("the file does not say whether the model has a sliding window: llama.cpp ignores it")
    return {"model_type": "starcoder2", "use_bias": facts.has("attn_q.bias"), "sliding_window": None}


def _cohere(facts: GgufFacts) -> dict[str, Any]:
    return {"model_type": "cohere", **biases(facts), "use_qk_norm": facts.has("attn_q_norm.weight")}


def _ernie(facts: GgufFacts) -> dict[str, Any]:
    return {"model_type": "ernie4_5", "use_bias": facts.has("attn_q.bias")}


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


def _seed_oss(facts: GgufFacts) -> dict[str, Any]:
    return {"model_type": "seed_oss", **biases(facts), "attention_out_bias": facts.has("attn_output.bias")}


def _gpt2(facts: GgufFacts) -> dict[str, Any]:
    return {"model_type": "gpt2", "n_positions": facts.rows("position_embd.weight")}


def _starcoder(facts: GgufFacts) -> dict[str, Any]:
    """StarCoder 1 and SantaCoder: one KV head, or as many as query heads."""
    heads = facts.number("attention.head_count_kv", facts.number("attention.head_count"))
    return {
        "model_type": "gpt_bigcode",
        "multi_query": heads == 1,
        "max_position_embeddings": facts.rows("position_embd.weight"),
    }


def _apertus(facts: GgufFacts) -> dict[str, Any]:
    """The four numbers a layer of its activation are metadata of the file, not tensors: they are not counted."""
    return {"model_type": "apertus", **biases(facts), "hidden_act": "xielu without tensors"}


def _minicpm(facts: GgufFacts) -> dict[str, Any]:
    """MiniCPM, and its mixture of experts, whose width is `feed_forward_length`."""
    return {
        "model_type": "minicpm",
        **(experts(facts) if facts.number("expert_count", 0) else {"num_experts": 0}),
    }


def _internlm2(facts: GgufFacts) -> dict[str, Any]:
    return {"model_type": "internlm2", "bias": facts.has("attn_q.bias")}


def _baichuan(facts: GgufFacts) -> dict[str, Any]:
    return {"model_type": "baichuan", "model_max_length": facts.optional("context_length")}


def _xverse(facts: GgufFacts) -> dict[str, Any]:
    return {"model_type": "xverse", "bias": facts.has("attn_q.bias")}


def _deci(facts: GgufFacts) -> dict[str, Any]:
    """Nemotron Super and Ultra: layers without attention or without a block, each block as wide as it likes."""
    heads, keys = facts.per_layer("attention.head_count"), facts.per_layer("attention.head_count_kv")
    widths, blocks = facts.per_layer("feed_forward_length"), []
    for index, (n_heads, n_keys, width) in enumerate(zip(heads, keys, widths, strict=True)):
        if bool(n_heads) != bool(n_keys) or (n_keys and n_heads % n_keys):
            facts.refuse(f"layer {index} has {n_heads} heads and {n_keys} KV heads, which is not supported")
        attends = {"n_heads_in_group": n_heads // n_keys} if n_keys else {"no_op": True}
        blocks.append(
            {"attention": attends, "ffn": {"intermediate_size": width} if width else {"no_op": True}}
        )
    own = {"model_type": "nemotron-nas", **biases(facts), "block_configs": blocks}
    return {**own, "num_key_value_heads": None, "intermediate_size": None}


FAMILIES: Final[Mapping[str, Family]] = {
    **EXPERTS,
    **HYBRIDS,
    **WINDOWED,
    "apertus": _apertus,
    "arcee": plain("arcee"),
    "baichuan": _baichuan,
    "bloom": plain("bloom"),
    "chatglm": plain("glm"),
    "command-r": _cohere,
    "deci": _deci,
    "ernie4_5": _ernie,
    "exaone": plain("exaone"),
    "falcon": _falcon,
    "gemma": plain("gemma"),
    "glm4": plain("glm4"),
    "gpt2": _gpt2,
    "gptneox": plain("gpt_neox"),
    "granite": plain("granite"),
    "hunyuan-dense": plain("hunyuan_v1_dense"),
    "internlm2": _internlm2,
    "jais2": plain("jais2"),
    "llama": _llama,
    "minicpm": _minicpm,
    "mistral3": _mistral,
    "mpt": plain("mpt"),
    "nemotron": plain("nemotron"),
    "olmo": plain("olmo"),
    "orion": plain("orion"),
    "phi2": plain("phi"),
    "qwen2": plain("qwen2"),
    "qwen2vl": plain("qwen2"),
    "qwen3": plain("qwen3"),
    "qwen3vl": plain("qwen3"),
    "seed_oss": _seed_oss,
    "smollm3": plain("smollm3"),
    "stablelm": _stablelm,
    "starcoder": _starcoder,
    "starcoder2": _starcoder2,
    "xverse": _xverse,
}
