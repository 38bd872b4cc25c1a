"""
Which ggml type each tensor of a mixed file gets.

The rules are llama.cpp's own (b11434, src/llama-quant.cpp, llama_tensor_get_type_impl), with and without an
importance matrix. Layer numbers count from 0; `more bits` layers are the first and the last eighth and every
third between.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


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
    "embed_tokens_per_layer": Category.TOKEN_EMBD,
    "lm_head": Category.OUTPUT,
    "q_proj": Category.ATTENTION_Q,
    "k_proj": Category.ATTENTION_K,
    "wk": Category.ATTENTION_K,  # of the lightning indexer: indexer.attn_k
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
    """
    One matrix, and what the rules look at around it.

    `imatrix`: the file is made with an importance matrix; `fused_apart`: attn_qkv has rules of its own, as in 2025.
    """

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
    imatrix: bool = False
    falcon: bool = False
    fused_apart: bool = False


_SPECIAL_DEFAULTS = {
    "q4_k_m": "q4_k", "q4_k_s": "q4_k", "q5_k_m": "q5_k", "q5_k_s": "q5_k", "q2_k_s": "q2_k",
    "q3_k_s": "q3_k", "q3_k_m": "q3_k", "q3_k_l": "q3_k", "iq2_s": "iq2_xs", "iq2_m": "iq2_s",
    "iq3_xs": "iq3_s", "iq3_m": "iq3_s", "mxfp4_moe": "mxfp4",
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
        return _output(file_type, usual, tensor)
    if file_type == "mxfp4_moe":
        return "mxfp4" if tensor.stacked else "q8_0"
    apart = _EMBEDDING if tensor.category is Category.TOKEN_EMBD else None
    if tensor.fused_apart and tensor.category is Category.ATTENTION_QKV:
        apart = _FUSED_APART
    if apart is not None:
        return apart.get(file_type, usual)
    if file_type in _LOW:
        return _low(file_type, usual, tensor)
    rule = _RULES.get(tensor.category)
    return (rule(file_type, tensor) if rule else None) or usual


_EMBEDDING = {
    "iq2_xxs": "q2_k", "iq2_xs": "q2_k", "iq1_s": "q2_k", "iq1_m": "q2_k",
    "iq2_s": "iq3_s", "iq2_m": "iq3_s", "iq3_xxs": "iq3_s", "tq1_0": "q4_k", "tq2_0": "q4_k",
}  # fmt: skip
# attn_qkv until the rules for attn_v took it in (llama.cpp of 2025: llama_tensor_get_type, "attn_qkv.weight").
_FUSED_APART = {
    "q3_k_m": "q4_k", "q3_k_l": "q4_k", "iq3_m": "q4_k", "q4_k_m": "q5_k", "q5_k_m": "q6_k",
}  # fmt: skip
_BLOCK_OF_32 = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "mxfp4")


def _output(file_type: str, usual: str, tensor: Tensor) -> str:
    block = 32 if usual in _BLOCK_OF_32 else 256
    if file_type == "mxfp4_moe" or tensor.falcon or tensor.columns % block or usual == "q8_0":
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
        "iq3_xxs": "q4_k" if grouped else ("iq3_xxs" if tensor.imatrix else "iq3_s"),
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
    index, count = _place(tensor), tensor.n_layers
    if tensor.falcon and file_type in _FALCON_DOWN:
        return _FALCON_DOWN[file_type](index, count)
    if file_type in ("q4_k_m", "q5_k_m"):
        return "q6_k" if use_more_bits(index, count) else None
    if file_type == "q3_k_m":
        return "q5_k" if index < count // 16 else "q4_k"
    if file_type == "iq3_m":
        spread = tensor.n_experts == _MIXTRAL and use_more_bits(index, count)
        return "q4_k" if index < count // 8 or spread else None
    fixed = {"q2_k": "q3_k", "q3_k_l": "q5_k"}.get(file_type)
    if fixed is None and index < count // 8:
        first = _FIRST_DOWN | (_FIRST_DOWN_WITH if tensor.imatrix else _FIRST_DOWN_WITHOUT)
        if file_type in first:
            return first[file_type]
    return "q3_k" if file_type == "iq3_xxs" and not tensor.imatrix else fixed


# The first eighth of ffn_down: in any case, without and with an importance matrix.
_FIRST_DOWN = {"q2_k_s": "q4_k", "q4_k_s": "q5_k"}
_FIRST_DOWN_WITHOUT = {"iq3_xxs": "q4_k", "iq4_nl": "q5_k", "iq4_xs": "q5_k"}
_FIRST_DOWN_WITH = {"q4_0": "q4_1", "q5_0": "q5_1"}
_FALCON_DOWN: dict[str, Callable[[int, int], str | None]] = {
    "q3_k_m": lambda i, n: "q5_k" if i < n // 16 else ("q4_k" if use_more_bits(i, n) else None),
    "q3_k_l": lambda _i, _n: "q4_k",
    "q4_k_m": lambda i, n: "q6_k" if i < n // 16 else ("q5_k" if use_more_bits(i, n) else None),
    "q4_k_s": lambda _i, _n: None,
}


def _place(tensor: Tensor) -> int:
    """Where there are experts the layer counts, else the number of such tensors before this one."""
    return tensor.layer if tensor.n_experts else tensor.down_index


def _attention_output(file_type: str, tensor: Tensor) -> str | None:
    if tensor.falcon:
        return "q4_k" if file_type == "q3_k_l" else None
    if tensor.n_experts == _MIXTRAL:
        mixes = (
            "q2_k", "iq3_xs", "iq3_xxs", "q3_k_s", "q3_k_m", "iq4_nl", "q4_k_s", "q4_k_m", "iq3_s", "iq3_m", "iq4_xs",
        )  # fmt: skip
        return "q5_k" if file_type in mixes else None
    return {"q2_k": "q3_k", "iq3_xxs": "iq3_s", "q3_k_m": "q4_k", "q3_k_l": "q5_k", "iq3_m": "q4_k"}.get(
        file_type
    )


def _gate_up(file_type: str, tensor: Tensor) -> str | None:
    middle = tensor.n_layers // 8 <= _place(tensor) < 7 * tensor.n_layers // 8
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
