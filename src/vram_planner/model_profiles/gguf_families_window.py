"""
GGUF architectures whose layers differ in what they look back on: Gemma 3n and 4, Llama 4, MiMo, Granite SWA, Laguna.

Source of each: llama.cpp's conversion/ and src/models/, the file of that name; where a file says nothing of its
pattern, the pattern is the one that src/models/ has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vram_planner.model_profiles.gguf_facts import biases, blocks, experts, shared_experts, window

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.model_profiles.gguf_facts import Family, GgufFacts

_SLIDING, _FULL, _CHUNKED = "sliding_attention", "full_attention", "chunked_attention"
# Llama 4's chunk and the distance of its full layers are no keys of a file. Source: src/models/llama4.cpp.
_CHUNK, _EVERY = 8192, 4
_WINDOW: Final = "attention.sliding_window"


def windowed(model_type: str) -> Family:
    """A family whose config says how many layers slide."""
    return lambda facts: {"model_type": model_type, **biases(facts), **window(facts)}


def _every_fourth(facts: GgufFacts, *, full_first: bool = False) -> dict[str, Any]:
    """As the file lists it; else one layer of four is full, the first of them or the last; none slides without a window."""
    found = window(facts)
    if "layer_types" not in found:
        place = 0 if full_first else _EVERY - 1
        slides = found["sliding_window"] is not None
        found["layer_types"] = [
            _SLIDING if slides and index % _EVERY != place else _FULL for index in range(facts.bounded_layers)
        ]
    return found


def _llama4(facts: GgufFacts) -> dict[str, Any]:
    """A window of 0 stands for layers that are all full (MobileLLM)."""
    count = facts.bounded_layers
    full = facts.raw(_WINDOW) == 0
    return {
        "model_type": "llama4_text",
        **biases(facts),
        **experts(facts),
        "intermediate_size": facts.number("expert_feed_forward_length"),
        "intermediate_size_mlp": facts.number("feed_forward_length"),
        "attention_chunk_size": _CHUNK,
        "layer_types": [_FULL if full or (index + 1) % _EVERY == 0 else _CHUNKED for index in range(count)],
        "moe_layers": list(facts.layers_with("ffn_gate_inp.weight")),
    }


def _by_kind(facts: GgufFacts, key: str, kinds: list[str]) -> dict[str, int]:
    """The one number of the layers of each kind."""
    found: dict[str, int] = {}
    for kind, value in zip(kinds, facts.per_layer(key), strict=True):
        if found.setdefault(kind, value) != value:
            facts.refuse(f"{facts.name}.{key} differs between layers of one kind ({kind})")
    return found


def _slides(facts: GgufFacts) -> list[str]:
    slides = facts.flags("attention.sliding_window_pattern")
    if slides is None:
        facts.refuse(f"{facts.name}.attention.sliding_window_pattern is missing")
    return [_SLIDING if slide else _FULL for slide in slides]


def _gemma4(facts: GgufFacts) -> dict[str, Any]:
    """Full layers have heads of their own, and no matrix for values where they take the keys."""
    kinds = _slides(facts)
    heads = _by_kind(facts, "attention.head_count_kv", kinds)
    full, sliding = heads.get(_FULL, heads.get(_SLIDING)), heads.get(_SLIDING, heads.get(_FULL))
    own = set(facts.layers_with("attn_k.weight"))
    from_keys = bool(own - set(facts.layers_with("attn_v.weight")))
    if full != sliding and not from_keys:
        facts.refuse("its full layers have other KV heads, yet matrices for values")
    borrowed = facts.number("attention.shared_kv_layers", 0)
    widths = facts.per_layer("feed_forward_length")
    first, last = widths[0], widths[-1]
    kept = len(widths) - borrowed
    if widths != (first,) * kept + (last,) * borrowed or last not in (first, 2 * first):
        facts.refuse(f"{facts.name}.feed_forward_length differs between layers in no way that is known")
    found: dict[str, Any] = {
        "model_type": "gemma4_text",
        **biases(facts),
        "sliding_window": facts.number(_WINDOW),
        "layer_types": kinds,
        "num_key_value_heads": sliding,
        "num_global_key_value_heads": full,
        "attention_k_eq_v": from_keys,
        "head_dim": facts.number("attention.key_length_swa"),
        "global_head_dim": facts.number("attention.key_length"),
        "intermediate_size": first,
        "use_double_wide_mlp": last != first,
        "num_kv_shared_layers": borrowed,
        "hidden_size_per_layer_input": facts.number("embedding_length_per_layer_input", 0),
        "vocab_size_per_layer_input": facts.rows("per_layer_token_embd.weight"),
        "final_logit_softcapping": facts.raw("final_logit_softcapping"),
        "enable_moe_block": bool(facts.number("expert_count", 0)),
    }
    if found["enable_moe_block"]:
        found |= {**experts(facts), "top_k_experts": facts.number("expert_used_count")}
    return found


def _gemma3n(facts: GgufFacts) -> dict[str, Any]:
    return {
        "model_type": "gemma3n_text",
        **biases(facts),
        "sliding_window": facts.number(_WINDOW),
        "layer_types": _slides(facts),
        "intermediate_size": list(facts.per_layer("feed_forward_length")),
        "num_kv_shared_layers": facts.number("attention.shared_kv_layers", 0),
        "hidden_size_per_layer_input": facts.number("embedding_length_per_layer_input"),
        "vocab_size_per_layer_input": facts.rows("per_layer_token_embd.weight"),
        "altup_num_inputs": facts.number("altup.num_inputs"),
        "laurel_rank": facts.shape_of("laurel_l.weight")[0],
    }


def _mimo2(facts: GgufFacts) -> dict[str, Any]:
    """Sliding layers have twice the KV heads of full ones. The file's window leaves out the query, as its config does."""
    kinds = _slides(facts)
    heads = _by_kind(facts, "attention.head_count_kv", kinds)
    if heads.get(_SLIDING, 2 * heads.get(_FULL, 0)) != 2 * heads.get(_FULL, 0):
        facts.refuse("its sliding layers have not twice the KV heads of full ones")
    return {
        "model_type": "mimo_v2_flash",
        **biases(facts),
        **experts(facts),
        "layer_types": kinds,
        "mlp_layer_types": blocks(facts),
        "num_key_value_heads": heads[_FULL],
        "v_head_dim": facts.number("attention.value_length"),
        "sliding_window_size": facts.number(_WINDOW),
    }


def _laguna(facts: GgufFacts) -> dict[str, Any]:
    """Query heads may differ between layers; the gate is one number a head, or one an element."""
    heads = facts.per_layer("attention.head_count")
    gate = facts.shape_of("attn_gate.weight")[0]
    return {
        "model_type": "laguna",
        **biases(facts),
        **experts(facts),
        **_every_fourth(facts, full_first=True),
        "num_attention_heads": heads[0],
        "num_attention_heads_per_layer": list(heads),
        "gating": "per-head" if gate in heads else "per-element",
        "mlp_layer_types": blocks(facts),
        "shared_expert_intermediate_size": facts.number("expert_shared_feed_forward_length"),
    }


def _afmoe(facts: GgufFacts) -> dict[str, Any]:
    return {
        "model_type": "afmoe",
        **biases(facts),
        **experts(facts),
        **shared_experts(facts),
        **_every_fourth(facts),
        "sliding_window": facts.number(_WINDOW),
    }


def _exaone_moe(facts: GgufFacts) -> dict[str, Any]:
    own = {"model_type": "exaone_moe", **experts(facts), **shared_experts(facts), **_every_fourth(facts)}
    return {**own, "mlp_layer_types": blocks(facts)}


def _cohere2_moe(facts: GgufFacts) -> dict[str, Any]:
    """The width of the dense layers in front is `feed_forward_length`, where there are any."""
    first = facts.number("leading_dense_block_count", 0)
    return {
        "model_type": "cohere2_moe",
        **biases(facts),
        **experts(facts),
        **_every_fourth(facts),
        "intermediate_size": facts.number("expert_feed_forward_length"),
        "prefix_dense_intermediate_size": facts.number("feed_forward_length") if first else None,
        "first_k_dense_replace": first,
        "num_shared_experts": facts.number("expert_shared_count", 0),
    }


def _granite_swa(facts: GgufFacts) -> dict[str, Any]:
    return {"model_type": "granite_swa", **biases(facts), **_every_fourth(facts, full_first=True)}


def _mellum(facts: GgufFacts) -> dict[str, Any]:
    own = {"model_type": "mellum", **biases(facts), **experts(facts), "mlp_layer_types": blocks(facts)}
    return {**own, **window(facts)}


def _olmo2(facts: GgufFacts) -> dict[str, Any]:
    """OLMo 3 goes by the name of OLMo 2 and has a window."""
    if facts.optional(_WINDOW):
        return {"model_type": "olmo3", **biases(facts), **window(facts)}
    return {"model_type": "olmo2", **biases(facts)}


WINDOWED: Final[Mapping[str, Family]] = {
    "afmoe": _afmoe,
    "cohere2": windowed("cohere2"),
    "cohere2moe": _cohere2_moe,
    "exaone-moe": _exaone_moe,
    "exaone4": windowed("exaone4"),
    "gemma2": windowed("gemma2"),
    "gemma3": windowed("gemma3_text"),
    "gemma3n": _gemma3n,
    "gemma4": _gemma4,
    "granite_swa": _granite_swa,
    "laguna": _laguna,
    "llama4": _llama4,
    "mellum": _mellum,
    "mimo2": _mimo2,
    "olmo2": _olmo2,
    "phi3": windowed("phi3"),
}
