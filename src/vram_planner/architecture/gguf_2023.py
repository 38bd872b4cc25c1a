"""
The mixes of llama.cpp from August 2023 to January 2024, which the files of that time still have.

Q2_K was then mostly Q3_K (https://github.com/ggml-org/llama.cpp/pull/2707: "all tensors are quantized using Q3_K,
except for attention K and Q, which are Q2_K"; the embedding is Q2_K too, as sizes of Llama 2 tell), and experts were tensors
of their own, whose names the rules for ffn_down, ffn_gate and ffn_up did not know
(https://github.com/ggml-org/llama.cpp/pull/4906), so that they all have the file's usual type.
"""

from __future__ import annotations

from vram_planner.architecture.gguf_mix import Category, Tensor, default_type, use_more_bits

# What existed then.
TYPES_2023 = (
    "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k_s", "q3_k_m", "q3_k_l",
    "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k",
)  # fmt: skip
SOURCE_2023 = "llama.cpp of August 2023 to January 2024: pull requests 2707 and 4906"
_EIGHT_EXPERTS = 8
_FEED_FORWARD = (Category.FFN_DOWN, Category.FFN_GATE, Category.FFN_UP)
_FEW = 4


def choose_type_2023(file_type: str, tensor: Tensor) -> str:
    """The ggml type of a matrix in a file of 2023, before rows are looked at."""
    usual = default_type(file_type)
    if tensor.category is Category.OUTPUT:
        block = 32 if usual.endswith(("_0", "_1")) else 256
        return "q8_0" if tensor.falcon or tensor.columns % block or usual == "q8_0" else "q6_k"
    if tensor.category in _FEED_FORWARD:
        return (None if tensor.n_experts else _dense(file_type, tensor)) or usual
    return _attention(file_type, tensor) or usual


def _attention(file_type: str, tensor: Tensor) -> str | None:
    if tensor.category is Category.ATTENTION_V:
        return _value(file_type, tensor)
    if tensor.category is Category.ATTENTION_K:
        return "q8_0" if tensor.n_experts == _EIGHT_EXPERTS else None
    if tensor.category is Category.ATTENTION_QKV:
        return _FUSED.get(file_type)
    raised = tensor.category is Category.ATTENTION_OUTPUT and not tensor.falcon
    return _OUTPUT.get(file_type) if raised else None


_FUSED = {"q3_k_m": "q4_k", "q3_k_l": "q4_k", "q4_k_m": "q5_k", "q5_k_m": "q6_k"}
_OUTPUT = {"q2_k": "q3_k", "q3_k_m": "q4_k", "q3_k_l": "q5_k"}


def _value(file_type: str, tensor: Tensor) -> str | None:
    if tensor.n_experts == _EIGHT_EXPERTS:
        return "q8_0"
    chosen = {
        "q2_k": "q3_k",
        "q3_k_m": "q5_k" if tensor.value_index < 2 else "q4_k",  # noqa: PLR2004
        "q3_k_l": "q5_k",
        "q4_k_s": "q5_k" if tensor.value_index < _FEW else None,
    }.get(file_type)
    if file_type in ("q4_k_m", "q5_k_m") and use_more_bits(tensor.value_index, tensor.n_values):
        chosen = "q6_k"
    if tensor.is_70b and (chosen or default_type(file_type)) in ("q3_k", "q4_k"):
        return "q5_k"
    return chosen


def _dense(file_type: str, tensor: Tensor) -> str | None:
    if file_type == "q2_k":
        return "q3_k"
    if tensor.category is not Category.FFN_DOWN:
        return None
    index, count = tensor.down_index, tensor.n_layers
    if file_type in ("q4_k_m", "q5_k_m"):
        return "q6_k" if use_more_bits(index, count) else None
    if file_type == "q3_k_m":
        return "q5_k" if index < count // 16 else "q4_k"
    if file_type == "q3_k_l":
        return "q5_k"
    return "q5_k" if file_type == "q4_k_s" and index < count // 8 else None
