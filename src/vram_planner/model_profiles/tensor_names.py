"""
Names of tensors in files, and which of our tensors they belong to.

An entry lists alternatives, the first that the layer has is taken; an alternative of several names is a fused tensor
that is shared between them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

Alternatives = tuple[tuple[str, ...], ...]


class Meant(NamedTuple):
    """
    What a tensor's name says: the layer (None outside), our names for it, and whether it is a bias.

    `kind` is "layer", "outside", "tower", "extra" (tables that come with the format), "draft" or "ignored"; `main` is False for what a quantised format
    hangs on a tensor: its scales, zero points, indices.
    """

    kind: str
    layer: int | None
    names: Alternatives
    bias: bool = False
    main: bool = True


def _one(*names: str) -> Alternatives:
    return tuple((name,) for name in names)


_QKV: Final = (("qkv_proj",), ("q_proj", "k_proj", "v_proj"))
_GATE_UP: Final = (("gate_up_proj",), ("gate_proj", "up_proj"))
_CORRECTION: Final = _one("router.correction", "router.bias")


def _shared(part: str) -> Alternatives:
    whole = "down_proj" if part == "down" else "gate_up_proj"
    return _one(
        f"shared_experts.{part}_proj",
        f"shared_expert.{part}_proj",
        f"shared_mlp.{part}_proj",
        f"shared_mlp.{whole}",
    )


def _streams(name: str) -> tuple[str, ...]:
    """Gemma 3n has four streams: the converter stacks the three matrices into one and takes no other number."""
    return tuple(f"{name}.{index}" for index in range(3))


# Source: llama.cpp, gguf-py/gguf/tensor_mapping.py and constants.py (TENSOR_NAMES).
_GGUF_LAYER: Final[Mapping[str, Alternatives]] = {
    "attn_norm": _one(
        "input_layernorm", "ln_1", "ln_mlp", "ln_attn", "self_attn_layer_norm", "norm", "operator_norm", "norm_1", "attention_layernorm"
    ),
    "attn_norm_2": _one("ln_attn"),
    "ffn_norm": _one(
        "pre_feedforward_layernorm", "pre_mlp_layernorm", "pre_ff_layernorm", "post_attention_layernorm", "ln_2", "ln_mlp", "final_layer_norm",
        "ffn_norm", "norm_2", "feedforward_layernorm",
    ),
    "post_attention_norm": _one("post_self_attn_layernorm", "post_attention_layernorm"),
    "post_ffw_norm": _one("post_mlp_layernorm", "post_feedforward_layernorm"),
    "attn_q": _one("q_proj", "qkv_proj"), "attn_k": _one("k_proj", "qkv_proj"), "attn_v": _one("v_proj", "qkv_proj"),
    "attn_qkv": (("in_proj_qkv",), ("in_proj_qkvz",), *_QKV), "attn_gate": _one("in_proj_z", "in_proj_qkvz", "g_proj", "gate_proj"), "attn_output_norm": _one("norm_2"),
    "attn_output": _one("o_proj"), "attn_sinks": _one("sinks"),
    "attn_q_norm": _one("q_norm", "q_layernorm"), "attn_k_norm": _one("k_norm", "k_layernorm"),
    "attn_q_a": _one("q_a_proj"), "attn_q_a_norm": _one("q_a_layernorm"), "attn_q_b": _one("q_b_proj"),
    "attn_kv_a_mqa": _one("kv_a_proj_with_mqa"), "attn_kv_a_norm": _one("kv_a_layernorm"),
    "attn_kv_b": _one("kv_b_proj"), "attn_k_b": _one("kv_b_proj"), "attn_v_b": _one("kv_b_proj"),
    "ffn_gate": _one("gate_proj", "shared_mlp.gate_up_proj"),
    "ffn_up": _one("gate_up_proj", "up_proj", "shared_mlp.gate_up_proj"), "ffn_down": _one("down_proj"),
    "ffn_gate_inp": _one("router"), "exp_probs_b": _CORRECTION,
    "ffn_gate_exps": _one("experts.gate"), "ffn_up_exps": _one("experts.up"), "ffn_down_exps": _one("experts.down"),
    "ffn_gate_up_exps": (("experts.gate", "experts.up"),),
    "ffn_gate_shexp": _shared("gate"), "ffn_up_shexp": _shared("up"), "ffn_down_shexp": _shared("down"),
    "ffn_gate_inp_shexp": _one("shared_gate"), "ffn_latent_down": _one("fc1_latent_proj"), "ffn_latent_up": _one("fc2_latent_proj"),
    # Recurrent layers.
    "ssm_in": _one("in_proj"), "ssm_conv1d": _one("conv1d"), "ssm_x": _one("x_proj"), "ssm_dt": _one("dt_proj"),
    "ssm_a": _one("A_log"), "ssm_d": _one("D"), "ssm_norm": _one("norm", "o_norm"), "ssm_out": _one("out_proj"),
    "ssm_dt_norm": _one("dt_layernorm"), "ssm_b_norm": _one("b_layernorm"), "ssm_c_norm": _one("c_layernorm"),
    "ssm_ba": _one("in_proj_ba"), "ssm_alpha": _one("in_proj_a"), "ssm_beta": _one("in_proj_b", "b_proj"),
    "ssm_conv1d_q": _one("conv1d"), "ssm_conv1d_k": _one("conv1d"), "ssm_conv1d_v": _one("conv1d"),
    "ssm_f_a": _one("f_a_proj"), "ssm_f_b": _one("f_b_proj"), "ssm_g_a": _one("g_a_proj"), "ssm_g_b": _one("g_b_proj"),
    "shortconv.in_proj": _one("in_proj"), "shortconv.conv": _one("conv"), "shortconv.out_proj": _one("out_proj"),
    # Gemma 3n and 4.
    "layer_output_scale": _one("layer_scalar"), "inp_gate": _one("per_layer_input_gate"),
    "proj": _one("per_layer_projection"), "post_norm": _one("post_per_layer_input_norm"),
    "post_ffw_norm_1": _one("post_feedforward_layernorm_1"), "post_ffw_norm_2": _one("post_feedforward_layernorm_2"),
    "pre_ffw_norm_2": _one("pre_feedforward_layernorm_2"),
    "laurel_l": _one("laurel.linear_left"), "laurel_r": _one("laurel.linear_right"),
    "laurel_post_norm": _one("laurel.post_laurel_norm"), "altup_correct_coef": _one("altup.correction_coefs"),
    "altup_correct_scale": _one("altup.correct_output_scale"), "altup_predict_coef": _one("altup.prediction_coefs"),
    "altup_router": _one("altup.modality_router"), "altup_router_norm": _one("altup.router_norm"),
    # The indexer of sparse attention.
    "indexer.k_norm": _one("indexer.k_norm"), "indexer.proj": _one("indexer.weights_proj"),
    "indexer.attn_k": _one("indexer.wk"), "indexer.attn_q_b": _one("indexer.wq_b"),
    "attn_sub_norm": _one("attn_sub_norm"), "ffn_sub_norm": _one("ffn_sub_norm"),
}  # fmt: skip
# What a name means with another ending than the usual two.
_GGUF_ENDING: Final[Mapping[str, Alternatives]] = {
    "ssm_dt.bias": _one("dt_proj.bias", "dt_bias"),
    "ffn_gate_inp.scale": _one("router.scale"), "ffn_down_exps.scale": _one("router.per_expert_scale"),
}  # fmt: skip
_GGUF_OUTSIDE: Final[Mapping[str, Alternatives]] = {
    "token_embd": _one("embed_tokens"), "output": _one("lm_head"), "position_embd": _one("positions"),
    "output_norm": _one("norm", "ln_f", "final_layer_norm"), "token_embd_norm": _one("word_embeddings_layernorm", "norm"),
    "per_layer_token_embd": _one("embed_tokens_per_layer"), "per_layer_model_proj": _one("per_layer_model_projection"),
    "per_layer_proj_norm": _one("per_layer_projection_norm"),
    "altup_proj": (_streams("altup_projections"),), "altup_unembd_proj": (_streams("altup_unembed_projections"),),
}  # fmt: skip
_GGUF_NAME: Final = re.compile(
    r"(?:blk\.(\d{1,6})\.)?([\w.]+?)(?:\.(\d{1,5}))?(?:\.(weight|bias|scale|input_scale))?"
)


def gguf_name(name: str, n_layers: int) -> Meant:
    """What the name of a tensor in a GGUF file says."""
    if name.startswith(("v.", "a.", "mm.")):
        return Meant("tower", None, ())
    found = _GGUF_NAME.fullmatch(name)
    if found is None:
        return Meant("outside", None, ())
    number, module, expert, ending = found.groups()
    if module.startswith("rope_"):
        return Meant("extra", None, ())
    if number is None:
        return Meant("outside", None, _GGUF_OUTSIDE.get(module, ()), bias=ending == "bias")
    return _gguf_in_layer(int(number), n_layers, (module, expert, ending))


def _gguf_in_layer(layer: int, n_layers: int, parts: tuple[str, str | None, str | None]) -> Meant:
    """Of the name's module, the number of an expert, and its ending."""
    module, expert, ending = parts
    if layer >= n_layers:
        return Meant("draft", layer, ())
    if expert is not None:  # files of early 2024 have one tensor an expert
        module = f"{module}_exps"
    special = _GGUF_ENDING.get(f"{module}.{ending}")
    if special is not None:
        return Meant("layer", layer, special)
    bias = ending == "bias" and module != "exp_probs_b"
    return Meant(
        "layer", layer, _GGUF_LAYER.get(module, ()), bias=bias, main=ending in (None, "weight", "bias")
    )


_TOWER: Final = re.compile(
    r"(?:^|\.)(?:vision_tower|vision_model|vision_encoder|vision_language_adapter|vision_embed_tokens|visual|"
    r"audio_tower|audio_model|audio_encoder|multi_modal_projector|mm_projector|mm_whisper_embeddings|patch_merger|"
    r"vision_adapter|vision_projection|pre_mm_projector_norm|img_projector|embed_vision|embed_audio)(?:\.|$)"
)
_LAYER: Final = re.compile(r"(?:^|.*?\.)(?:layers|h|blocks)\.(\d{1,6})\.(.+)")
# Buffers that older checkpoints store and no engine loads.
_IGNORED: Final = re.compile(
    r"(?:^|\.)(?:rotary_emb\.inv_freq|(?:attn|attention|self_attn|self_attention)\.(?:masked_)?bias)$"
)
_ENDING: Final = re.compile(
    r"\.(?:weight|bias|qweight|qzeros|scales|g_idx|SCB|biases|weight_format|absmax|quant_map|nested_absmax|"
    r"nested_quant_map|quant_state\.[\w.]+|weight\.[\w.]+|(?:weight|input|output|k|v|kv|q|prob)_scale\w*|"
    r"weight_(?:packed|shape|zero_point|g_idx|global_scale)|input_global_scale|input_zero_point)$"
)
_EXPERT: Final = re.compile(r"(?:^|\.)experts\.(?:\d{1,6}\.|mlp\.)?(\w+)$")
_EXPERT_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "gate_proj": ("gate",), "w1": ("gate",), "up_proj": ("up",), "w3": ("up",), "down_proj": ("down",), "w2": ("down",),
    "gate_up_proj": ("gate", "up"), "v1": ("up",), "linear": ("gate",), "linear_v": ("up",), "linear_1": ("down",),
}  # fmt: skip
_HF_LEAF: Final[Mapping[str, Alternatives]] = {
    "wq": _one("q_proj"), "wk": _one("k_proj"), "wv": _one("v_proj"), "wo": _one("o_proj"),
    "out_proj": _one("o_proj"), "query_key_value": _QKV, "c_attn": _QKV, "Wqkv": _QKV, "qkv_proj": _QKV,
    "gate_up_proj": _GATE_UP, "w1": _one("gate_proj"), "w3": _one("up_proj"), "w2": _one("down_proj"),
    "fc_in": _one("up_proj"), "fc_out": _one("down_proj"), "fc1": _one("up_proj"), "c_fc": _one("up_proj"), "dense_h_to_4h": _one("up_proj"),
    "fc2": _one("down_proj"), "dense_4h_to_h": _one("down_proj"),
    "gate": _one("router"), "router": _one("router"), "wg": _one("router"), "shared_expert_gate": _one("shared_gate"),
    "e_score_correction_bias": _CORRECTION, "expert_bias": _CORRECTION,
    "attention_sink_bias": _one("sinks"), "query_layernorm": _one("q_norm"), "key_layernorm": _one("k_norm"),
    "q_conv1d": _one("conv1d"), "k_conv1d": _one("conv1d"), "v_conv1d": _one("conv1d"),
    "attention_layer_norm": _one("input_layernorm"), "feedforward_layer_norm": _one("post_attention_layernorm"),
    "post_attn_norm": _one("post_self_attn_layernorm", "post_attention_layernorm"),
    "post_ffn_norm": _one("post_mlp_layernorm", "post_feedforward_layernorm"),
    "input_linear": _one("shared_mlp.gate_up_proj"), "output_linear": _one("shared_mlp.down_proj"),
}  # fmt: skip
_HF_OUTSIDE: Final[Mapping[str, Alternatives]] = {
    "embed_tokens": _one("embed_tokens"), "wte": _one("embed_tokens"), "word_embeddings": _one("embed_tokens"),
    "embed_in": _one("embed_tokens"), "tok_embeddings": _one("embed_tokens"), "lm_head": _one("lm_head"),
    "embed_out": _one("lm_head"), "output": _one("lm_head"),
    "embeddings": _one("embed_tokens"), "norm_f": _one("norm", "norm_f"),
    "norm": _one("norm"), "ln_f": _one("ln_f"), "final_layernorm": _one("norm"), "embedding_norm": _one("norm"),
    "final_layer_norm": _one("norm", "final_layer_norm"), "wpe": _one("positions"), "embed_positions": _one("positions"),
    "word_embeddings_layernorm": _one("word_embeddings_layernorm"),
}  # fmt: skip


def hf_name(name: str, n_layers: int) -> Meant:
    """What the name of a tensor in a checkpoint of transformers says."""
    if _TOWER.search(name):
        return Meant("tower", None, ())
    if _IGNORED.search(name):
        return Meant("ignored", None, ())
    found = _LAYER.fullmatch(name)
    if name.startswith("mtp.") or (found is not None and int(found[1]) >= n_layers):
        return Meant("draft", None, ())
    path, bias, main = _module(name if found is None else found[2])
    leaf = path.rpartition(".")[2]
    if found is None:
        return Meant("outside", None, (*_HF_OUTSIDE.get(leaf, ()), *_ends(path)), bias, main)
    return Meant("layer", int(found[1]), _in_layer(path, leaf), bias, main)


def _module(rest: str) -> tuple[str, bool, bool]:
    """The module's path without what a format hangs on it; whether it is the module's bias, or its main tensor."""
    for ending in ("proj_blocks", "proj_scales"):  # gpt-oss: experts.gate_up_proj_blocks
        if rest.endswith(ending):
            return rest.rpartition("_")[0], False, ending == "proj_blocks"
    if rest.endswith("proj_bias"):
        return rest.removesuffix("_bias"), True, True
    path = _ENDING.sub("", rest)
    ending = rest[len(path) :]
    return path, ending == ".bias", ending in ("", ".weight", ".bias")


def _in_layer(path: str, leaf: str) -> Alternatives:
    expert = _EXPERT.search(path)
    if expert is not None and expert[1] in _EXPERT_PARTS:
        return (tuple(f"experts.{part}" for part in _EXPERT_PARTS[expert[1]]),)
    if "shared_expert" in path and leaf in ("gate_proj", "up_proj", "down_proj"):
        return _shared(leaf.removesuffix("_proj"))
    if leaf in ("c_proj", "dense"):
        return _one("down_proj" if "mlp" in path else "o_proj")
    return (*_ends(path), *_HF_LEAF.get(leaf, ()), *(_one("router") if "router" in path else ()))


def _ends(path: str) -> Alternatives:
    """The path from each of its steps on, the longest first: 'self_attn.indexer.wk', 'indexer.wk', 'wk'."""
    steps = path.split(".")
    return tuple((".".join(steps[start:]),) for start in range(len(steps)))
