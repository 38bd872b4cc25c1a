"""
Which ggml type each tensor of a mixed file gets.

The rules are llama.cpp's own (b11434, src/llama-quant.cpp, llama_tensor_get_type_impl), for files made
without an importance matrix. Layer numbers count from 0; `more bits` layers are the first and the last
eighth and every third between.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple


class Category(Enum):
    """What the quantiser sorts tensors into, by their names."""

    TOKEN_EMBD = auto()
    OUTPUT = auto()
    ATTENTION_Q = auto()
    ATTENTION_K = auto()
    ATTENTION_V = auto()
    ATTENTION_QKV = auto()
    ATTENTION_OUTPUT = auto()
    FFN_UP = auto()
    FFN_GATE = auto()
    FFN_DOWN = auto()
    OTHER = auto()


_CATEGORIES = {
    "embed_tokens": Category.TOKEN_EMBD,
    "lm_head": Category.OUTPUT,
    "q_proj": Category.ATTENTION_Q,
    "k_proj": Category.ATTENTION_K,
    "v_proj": Category.ATTENTION_V,
    "qkv_proj": Category.ATTENTION_QKV,
    "in_proj_qkv": Category.ATTENTION_QKV,
    "in_proj_qkvz": Category.ATTENTION_QKV,  # stored as in_proj_qkv and in_proj_z
    "o_proj": Category.ATTENTION_OUTPUT,
    "gate_proj": Category.FFN_GATE,
    "gate": Category.FFN_GATE,
    "up_proj": Category.FFN_UP,
    "up": Category.FFN_UP,
    "gate_up": Category.FFN_UP,
    "gate_up_proj": Category.FFN_UP,
    "down_proj": Category.FFN_DOWN,
    "down": Category.FFN_DOWN,
}


def category_of(name: str) -> Category:
    """The category of one of our tensor names; experts and shared experts count with the plain ones."""
    return _CATEGORIES.get(name.rsplit(".", 1)[-1], Category.OTHER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One matrix, and what the rules look at around it."""

    category: Category
    columns: int
    stacked: bool
    layer: int
    n_layers: int
    value_index: int
    n_values: int
    down_index: int
    query_groups: int
    n_experts: int
    is_70b: bool
    tied: bool


_SPECIAL_DEFAULTS = {
    "q4_k_m": "q4_k", "q4_k_s": "q4_k", "q5_k_m": "q5_k", "q5_k_s": "q5_k", "q2_k_s": "q2_k",
    "q3_k_s": "q3_k", "q3_k_m": "q3_k", "q3_k_l": "q3_k", "iq2_s": "iq2_xs", "iq2_m": "iq2_s",
    "iq3_xs": "iq3_s", "iq3_m": "iq3_s", "mxfp4_moe": "mxfp4", "ud-iq1_s": "iq1_s",
    "ud-iq1_m": "iq1_m", "ud-iq2_xxs": "iq2_xxs", "ud-q2_k_xl": "q2_k",
}  # fmt: skip
_UNQUANTISED = ("f32", "f16", "bf16")
_LOW = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m")
_MIXTRAL = 8
_GROUPED = 4


def default_type(file_type: str) -> str:
    """The type of tensors that no rule singles out. Source: llama_ftype_get_default_type."""
    return _SPECIAL_DEFAULTS.get(file_type, file_type)


def use_more_bits(index: int, count: int) -> bool:
    """First and last eighth, and every third between."""
    return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2  # noqa: PLR2004


def choose_type(file_type: str, tensor: Tensor) -> str:
    """The ggml type of a matrix in a file of that type, before rows are looked at."""
    usual = default_type(file_type)
    if file_type in _UNQUANTISED:
        return usual
    if tensor.category is Category.OUTPUT or (tensor.tied and tensor.category is Category.TOKEN_EMBD):
        return _output(file_type, usual, tensor.columns)
    if file_type == "mxfp4_moe":
        return "mxfp4" if tensor.stacked else "q8_0"
    if tensor.category is Category.TOKEN_EMBD:
        return _EMBEDDING.get(file_type, usual)
    if file_type in _LOW:
        return _low(file_type, usual, tensor)
    rule = _RULES.get(tensor.category)
    return (rule(file_type, tensor) if rule else None) or usual


_EMBEDDING = {
    "iq2_xxs": "q2_k", "iq2_xs": "q2_k", "iq1_s": "q2_k", "iq1_m": "q2_k",
    "iq2_s": "iq3_s", "iq2_m": "iq3_s", "iq3_xxs": "iq3_s", "tq1_0": "q4_k", "tq2_0": "q4_k",
}  # fmt: skip
_BLOCK_OF_32 = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "mxfp4")


def _output(file_type: str, usual: str, columns: int) -> str:
    block = 32 if usual in _BLOCK_OF_32 else 256
    if file_type == "mxfp4_moe" or columns % block or usual == "q8_0":
        return "q8_0"
    return "q5_k" if file_type in (*_LOW, "iq3_xxs") else "q6_k"


def _low(file_type: str, usual: str, tensor: Tensor) -> str:
    """Files of about one and two bits."""
    two = file_type in ("iq2_s", "iq2_m")
    if tensor.category in (Category.ATTENTION_V, Category.ATTENTION_QKV):
        many = tensor.query_groups >= _GROUPED or tensor.n_experts >= _GROUPED
        return "q4_k" if many else ("iq3_s" if two else "q2_k")
    if tensor.category is Category.ATTENTION_K and tensor.n_experts == _MIXTRAL:
        return "q4_k"
    if tensor.category is Category.FFN_DOWN and tensor.down_index < tensor.n_layers // 8:
        return "iq3_s" if two else "q2_k"
    if tensor.category is Category.ATTENTION_OUTPUT:
        if tensor.n_experts == _MIXTRAL:
            return "q5_k"
        return {"iq1_s": "iq2_xxs", "iq1_m": "iq2_xxs", "iq2_s": "iq3_s", "iq2_m": "iq3_s"}.get(
            file_type, usual
        )
    return usual


def _value(file_type: str, tensor: Tensor) -> str | None:
    if tensor.n_experts == _MIXTRAL:
        return "q8_0"
    chosen = _value_type(file_type, tensor)
    if tensor.is_70b and (chosen or default_type(file_type)) in ("q3_k", "q4_k"):
        return "q5_k"
    return chosen


def _value_type(file_type: str, tensor: Tensor) -> str | None:
    grouped = tensor.query_groups >= _GROUPED
    fixed = {
        "q2_k": "q4_k" if grouped else "q3_k",
        "iq3_xxs": "q4_k" if grouped else "iq3_s",
        "iq3_m": "q4_k",
        "q3_k_m": "q5_k" if tensor.value_index < 2 else "q4_k",  # noqa: PLR2004
        "q3_k_l": "q5_k",
    }.get(file_type)
    if fixed is not None:
        return fixed
    if grouped and file_type in ("q2_k_s", "iq3_xs", "iq3_s"):
        return "q4_k"
    if grouped and file_type in ("iq4_nl", "iq4_xs"):
        return "q5_k"
    if file_type in ("q4_k_m", "q5_k_m") and use_more_bits(tensor.value_index, tensor.n_values):
        return "q6_k"
    return "q5_k" if file_type == "q4_k_s" and tensor.value_index < 4 else None  # noqa: PLR2004


def _key(file_type: str, tensor: Tensor) -> str | None:
    return "q8_0" if tensor.n_experts == _MIXTRAL else _query(file_type, tensor)


def _query(file_type: str, _: Tensor) -> str | None:
    return {"iq3_xs": "iq3_xxs", "iq3_xxs": "iq2_s"}.get(file_type)


def _down(file_type: str, tensor: Tensor) -> str | None:
    # Where there are experts the layer counts, else the number of such tensors before this one.
    index, count = tensor.layer if tensor.n_experts else tensor.down_index, tensor.n_layers
    if file_type in ("q4_k_m", "q5_k_m"):
        return "q6_k" if use_more_bits(index, count) else None
    if file_type == "q3_k_m":
        return "q5_k" if index < count // 16 else "q4_k"
    if file_type == "iq3_m":
        spread = tensor.n_experts == _MIXTRAL and use_more_bits(index, count)
        return "q4_k" if index < count // 8 or spread else None
    fixed = {"q2_k": "q3_k", "q3_k_l": "q5_k"}.get(file_type)
    first = {"q2_k_s": "q4_k", "iq3_xxs": "q4_k", "iq4_nl": "q5_k", "iq4_xs": "q5_k", "q4_k_s": "q5_k"}
    if fixed is None and index < count // 8:
        return first.get(file_type)
    return "q3_k" if file_type == "iq3_xxs" else fixed


def _attention_output(file_type: str, tensor: Tensor) -> str | None:
    if tensor.n_experts == _MIXTRAL:
        mixes = (
            "q2_k", "iq3_xs", "iq3_xxs", "q3_k_s", "q3_k_m", "iq4_nl", "q4_k_s", "q4_k_m", "iq3_s", "iq3_m", "iq4_xs",
        )  # fmt: skip
        return "q5_k" if file_type in mixes else None
    return {"q2_k": "q3_k", "iq3_xxs": "iq3_s", "q3_k_m": "q4_k", "q3_k_l": "q5_k", "iq3_m": "q4_k"}.get(
        file_type
    )


def _gate_up(file_type: str, tensor: Tensor) -> str | None:
    middle = tensor.n_layers // 8 <= tensor.layer < 7 * tensor.n_layers // 8
    return "iq3_xxs" if file_type == "iq3_xs" and middle else None


_RULES = {
    Category.ATTENTION_V: _value,
    Category.ATTENTION_QKV: _value,  # a fused tensor counts as values: that rule comes first
    Category.ATTENTION_K: _key,
    Category.ATTENTION_Q: _query,
    Category.FFN_DOWN: _down,
    Category.ATTENTION_OUTPUT: _attention_output,
    Category.FFN_UP: _gate_up,
    Category.FFN_GATE: _gate_up,
}


class DynamicMix(NamedTuple):
    """What one of Unsloth's dynamic files of DeepSeek-R1 stores the experts and the shared expert in."""

    gate_up: str
    down: str
    first_down: str  # of the first `n_first` layers that have experts
    n_first: int
    shared: str


# The loader tells how many tensors have each type, beside 361 in float32:
#   UD-IQ1_S    q4_K 190, q5_K 116, q6_K 184, iq2_xxs 6, iq1_s 168
#   UD-Q2_K_XL  q2_K 171, q3_K 3, q4_K 306, q6_K 184; 211.034 GiB
# Unsloth's table has 131, 158, 183 and 212 "GB", which are GiB; it gives the bits of gate and up and of down. The mix
# of UD-IQ2_XXS gives 182.7 GiB, and to 3e-6 what gguf-parser read of the file's layers (195,636,468,224 bytes without
# the embedding). For UD-IQ1_M only the published total is met: 157.8 GiB.
_DYNAMIC = {
    "ud-iq1_s": DynamicMix("iq1_s", "iq1_s", "iq2_xxs", 6, "q5_k"),
    "ud-iq1_m": DynamicMix("iq1_m", "iq2_xs", "iq2_xs", 0, "q5_k"),
    "ud-iq2_xxs": DynamicMix("iq2_xxs", "q2_k", "q3_k", 3, "q5_k"),
    "ud-q2_k_xl": DynamicMix("q2_k", "q2_k", "q3_k", 3, "q4_k"),
}
DYNAMIC_TYPES = frozenset(_DYNAMIC)
_DYNAMIC_REST = {
    "embed_tokens": "q4_k", "lm_head": "q6_k",
    "q_a_proj": "q4_k", "q_b_proj": "q4_k", "kv_a_proj_with_mqa": "q6_k", "kv_b_proj": "q6_k",
    "k_b_proj": "q6_k", "v_b_proj": "q6_k", "o_proj": "q4_k",
    "gate_proj": "q4_k", "up_proj": "q4_k", "down_proj": "q6_k",
}  # fmt: skip


def dynamic_type(file_type: str, name: str, layer: int | None, first_experts: int) -> str:
    """The type of a tensor in one of the dynamic files of DeepSeek-R1 (January 2025; later models have other mixes)."""
    mix = _DYNAMIC[file_type]
    place, _, last = name.rpartition(".")
    if name == "experts.down":
        return mix.first_down if layer is not None and layer - first_experts < mix.n_first else mix.down
    if place == "experts":
        return mix.gate_up
    if place.startswith("shared") and last != "down_proj":
        return mix.shared
    return _DYNAMIC_REST[last]
