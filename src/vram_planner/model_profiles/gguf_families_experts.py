"""
GGUF architectures with experts, or with latent attention, beside those that `gguf_families_window` has.

Source of each: llama.cpp's conversion/ and src/models/, the file of that name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vram_planner.model_profiles.gguf_facts import biases, blocks, experts, shared_experts, window

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.model_profiles.gguf_facts import Family, GgufFacts


def _qwen2_moe(facts: GgufFacts) -> dict[str, Any]:
    rows = facts.optional("expert_shared_feed_forward_length") or facts.rows("blk.0.ffn_up_shexp.weight")
    return {"model_type": "qwen2_moe", **experts(facts), "shared_expert_intermediate_size": rows}


def _with_experts(model_type: str) -> Family:
    """A family that needs no more than sizes, biases and its experts."""
    return lambda facts: {"model_type": model_type, **biases(facts), **experts(facts)}


def _with_shared(model_type: str) -> Family:
    """A family with shared experts and dense layers in front."""
    return lambda facts: {
        "model_type": model_type,
        **biases(facts),
        **experts(facts),
        **shared_experts(facts),
    }


def _latent(facts: GgufFacts) -> dict[str, Any]:
    """Multi-head latent attention; files before 2025-04 have no *_mla keys."""
    rope = facts.number("rope.dimension_count")
    keys = facts.optional("attention.key_length_mla") or facts.number("attention.key_length")
    return {
        "num_key_value_heads": facts.number("attention.head_count"),
        "q_lora_rank": facts.optional("attention.q_lora_rank"),
        "kv_lora_rank": facts.number("attention.kv_lora_rank"),
        "qk_rope_head_dim": rope,
        "qk_nope_head_dim": keys - rope,
    }


def _deepseek2(facts: GgufFacts) -> dict[str, Any]:
    """V3 has a bias in its router that V2 has not."""
    third = facts.has("exp_probs_b.bias")
    return {
        "model_type": "deepseek_v3" if third else "deepseek_v2",
        **(experts(facts) if facts.number("expert_count", 0) else {}),
        **shared_experts(facts),
        **_latent(facts),
        "v_head_dim": facts.optional("attention.value_length_mla") or facts.number("attention.value_length"),
    }


def _sparse(model_type: str) -> Family:
    """Latent attention over the tokens that an indexer chooses, in the layers that have one."""

    def read(facts: GgufFacts) -> dict[str, Any]:
        choose = set(facts.layers_with("indexer.proj.weight"))
        kinds = ["full" if index in choose else "shared" for index in range(facts.bounded_layers)]
        if model_type == "deepseek_v32" and "shared" in kinds:
            facts.refuse(f"layer {kinds.index('shared')} has no indexer")
        return {
            **_deepseek2(facts),
            "model_type": model_type,
            "index_n_heads": facts.number("attention.indexer.head_count"),
            "index_head_dim": facts.number("attention.indexer.key_length"),
            "index_topk": facts.number("attention.indexer.top_k"),
            "indexer_types": kinds,
        }

    return read


def _minicpm3(facts: GgufFacts) -> dict[str, Any]:
    """The width of values is not in the metadata: it is the inner side of the output matrix over the heads."""
    inner, heads = facts.shape_of("attn_output.weight")[-1], facts.number("attention.head_count")
    return {
        "model_type": "minicpm3",
        **_latent(facts),
        "mlp_bias": facts.has("ffn_up.bias"),
        "v_head_dim": inner // max(1, heads),
    }


def _deepseek(facts: GgufFacts) -> dict[str, Any]:
    """DeepSeek-MoE 16B, the first: every layer behind the dense ones has experts."""
    own = {"model_type": "deepseek", **biases(facts), **experts(facts), **shared_experts(facts)}
    return {**own, "moe_layer_freq": 1}


def _gpt_oss(facts: GgufFacts) -> dict[str, Any]:
    own = {"model_type": "gpt_oss", **biases(facts), **experts(facts), **window(facts)}
    return {**own, "intermediate_size": facts.number("expert_feed_forward_length")}


def _glm4_moe(facts: GgufFacts) -> dict[str, Any]:
    return {**_with_shared("glm4_moe")(facts), "use_qk_norm": facts.has("attn_q_norm.weight")}


def _ernie_moe(facts: GgufFacts) -> dict[str, Any]:
    return {
        "model_type": "ernie4_5_moe",
        "use_bias": facts.has("attn_q.bias"),
        **experts(facts),
        **shared_experts(facts),
        "moe_layer_start_index": facts.number("leading_dense_block_count", 0),
        "moe_layer_interval": max(1, facts.number("interleave_moe_layer_step", 1)),
    }


def _minimax(facts: GgufFacts) -> dict[str, Any]:
    found = experts(facts)
    return {"model_type": "minimax_m2", **found, "intermediate_size": found["moe_intermediate_size"]}


def _phimoe(facts: GgufFacts) -> dict[str, Any]:
    own = {"model_type": "phimoe", "lm_head_bias": "output.bias" in facts.shapes}
    return {**own, **biases(facts), **experts(facts), **window(facts)}


def _granite_moe(facts: GgufFacts) -> dict[str, Any]:
    """Its experts have the width of `feed_forward_length`; with a shared block it is another family."""
    shared = facts.optional("expert_shared_feed_forward_length")
    own = _with_experts("granitemoeshared" if shared else "granitemoe")(facts)
    return {**own, "shared_intermediate_size": shared}


def _dbrx(facts: GgufFacts) -> dict[str, Any]:
    return {
        "model_type": "dbrx",
        "attn_config": {"kv_n_heads": facts.number("attention.head_count_kv")},
        "ffn_config": {
            "moe_num_experts": facts.number("expert_count"),
            "moe_top_k": facts.number("expert_used_count"),
            "ffn_hidden_size": facts.number("feed_forward_length"),
        },
    }


def _hy_v3(facts: GgufFacts) -> dict[str, Any]:
    found, shared = experts(facts), facts.number("expert_shared_feed_forward_length")
    width = found["moe_intermediate_size"]
    if not width or not shared or shared % width:
        facts.refuse(f"a shared expert of {shared:,} is no multiple of an expert of {width or 0:,}")
    own = {"model_type": "hy_v3", **biases(facts), **found, "num_shared_experts": shared // width}
    return {**own, "mlp_layer_types": blocks(facts)}


def _hunyuan_moe(facts: GgufFacts) -> dict[str, Any]:
    """The shared block is as wide as one expert: nothing else is published."""
    found = experts(facts)
    shared = facts.number("expert_shared_feed_forward_length")
    if shared * facts.number("expert_shared_count", 1) != found["moe_intermediate_size"]:
        facts.refuse("its shared block is not as wide as one expert, which is not supported")
    own = {"model_type": "hunyuan_v1_moe", **biases(facts), **found, "intermediate_size": shared}
    return {**own, "moe_topk": facts.number("expert_used_count")}


EXPERTS: Final[Mapping[str, Family]] = {
    "dbrx": _dbrx,
    "deepseek": _deepseek,
    "deepseek2": _deepseek2,
    "deepseek32": _sparse("deepseek_v32"),
    "dots1": _with_shared("dots1"),
    "ernie4_5-moe": _ernie_moe,
    "glm-dsa": _sparse("glm_moe_dsa"),
    "glm4moe": _glm4_moe,
    "gpt-oss": _gpt_oss,
    "granitemoe": _granite_moe,
    "hunyuan-moe": _hunyuan_moe,
    "hy_v3": _hy_v3,
    "minicpm3": _minicpm3,
    "minimax-m2": _minimax,
    "olmoe": _with_experts("olmoe"),
    "phimoe": _phimoe,
    "qwen2moe": _qwen2_moe,
    "qwen3moe": _with_experts("qwen3_moe"),
    "qwen3vlmoe": _with_experts("qwen3_moe"),
}
