"""
Names of GGUF files' types, as their makers write them.

    Q4_K_M                   llama.cpp's rules of today, without an importance matrix
    IQ4_XS-imatrix, i1-Q4_0  the same with one (mradermacher's files are named i1-…; bartowski's all have one)
    Q4_K_L, Q6_K_L, Q3_K_XL  bartowski's: the embedding and the head in Q8_0
    Q2_K-2023                the rules of 2023, as TheBloke's files have them
    Q5_K_M-2025              those of February 2024 to 2025: a fused attn_qkv (Phi-3, Phi-4) had rules of its own
    UD-Q4_K_XL               Unsloth's dynamic mixes; 1.58bit and its like are those of DeepSeek-R1
    Q4_K_M+attn_v=f16        llama-quantize --tensor-type: what follows a plus has that type
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from vram_planner.architecture.gguf_2023 import TYPES_2023
from vram_planner.architecture.gguf_dynamic import DYNAMIC_2_TYPES, DYNAMIC_TYPES, dynamic_base
from vram_planner.architecture.gguf_mix import default_type
from vram_planner.errors import PrecisionError

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLAIN = (
    "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1",
    "q2_k", "q2_k_s", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k",
    "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq3_xxs", "iq3_xs", "iq3_s", "iq3_m",
    "iq4_nl", "iq4_xs", "tq1_0", "tq2_0", "mxfp4_moe",
)  # fmt: skip
# bartowski's model cards: "Uses Q8_0 for embed and output weights".
_LARGE = {
    "q2_k_l": "q2_k", "q3_k_xl": "q3_k_l", "q4_k_l": "q4_k_m", "q5_k_l": "q5_k_m", "q6_k_l": "q6_k",
}  # fmt: skip
_LARGE_KEPT = (("token_embd", "q8_0"), ("output", "q8_0"))
_WITHOUT_MATRIX = ("f32", "f16", "bf16", "q8_0", "mxfp4_moe")
_NAMED_BY_BITS = {
    "1.58": "ud-iq1_s", "1.73": "ud-iq1_m", "2.22": "ud-iq2_xxs", "2.51": "ud-q2_k_xl",
}  # fmt: skip
_ALIASES = {
    "float16": "f16", "fp16": "f16", "bfloat16": "bf16",
    "float32": "f32", "fp32": "f32", "q4_k": "q4_k_m", "q5_k": "q5_k_m", "q3_k": "q3_k_m",
}  # fmt: skip
# File types by the name that llama-quantize or the maker prints, and the type that most of their tensors have.
GGUF_FILE_TYPES: Mapping[str, str] = MappingProxyType(
    {name.upper(): default_type(name) for name in _PLAIN}
    | {name.upper(): default_type(base) for name, base in _LARGE.items()}
    | {name.upper(): default_type(dynamic_base(name)) for name in (*sorted(DYNAMIC_TYPES), *DYNAMIC_2_TYPES)}
)
# llama.cpp's names of tensors, and ours.
_TENSORS: Mapping[str, tuple[str, ...]] = {
    "token_embd": ("embed_tokens",),
    "output": ("lm_head",),
    "attn_q": ("q_proj",),
    "attn_k": ("k_proj",),
    "attn_v": ("v_proj",),
    "attn_qkv": ("qkv_proj",),
    "attn_output": ("o_proj",),
    "ffn_gate": ("gate_proj",),
    "ffn_up": ("up_proj",),
    "ffn_down": ("down_proj",),
    "ffn_gate_exps": ("experts.gate",),
    "ffn_up_exps": ("experts.up",),
    "ffn_down_exps": ("experts.down",),
}
RULES_2023 = "2023"
RULES_2025 = "2025"
_YEARS = (RULES_2023, RULES_2025)
RULES_OF_R1 = "r1"
RULES_SINCE = "dynamic-2"
_R1 = re.compile(r"deepseek-r1(?:-zero)?(?:-gguf|-bf16|-ud-\w+)*(?::.*)?", re.ASCII)


class FileType(NamedTuple):
    """A name taken apart: the file type whose rules hold, whose rules, and which tensors have a type of their own."""

    name: str
    base: str
    imatrix: bool = False
    rules: str = ""
    kept: tuple[tuple[str, str], ...] = ()


def read_file_type(text: str) -> FileType:
    """Take a name apart. Raises PrecisionError for one that stands for no type."""
    first, *pairs = text.strip().lower().split("+")
    kept = tuple(_kept(pair, text) for pair in pairs)
    base, imatrix, rules = _marks(first)
    if match := re.fullmatch(r"(\d\.\d\d)-?bit", base):
        base, rules = _NAMED_BY_BITS.get(match[1], base), RULES_OF_R1
    base = _ALIASES.get(base, base)
    if base.upper() not in GGUF_FILE_TYPES or (rules == RULES_2023 and base not in TYPES_2023):
        raise PrecisionError(f"{text!r} is no GGUF file type", hint=f"one of {', '.join(GGUF_FILE_TYPES)}")
    marked = "".join((base, "-imatrix" * imatrix, f"-{rules}" if rules in _YEARS else ""))
    name = "+".join((marked, *pairs))
    if base in _LARGE:
        return FileType(name, _LARGE[base], imatrix=True, rules=rules, kept=(*_LARGE_KEPT, *kept))
    return FileType(name, base, imatrix or base.startswith("ud-"), rules, kept)


def plain_name(name: str) -> str:
    """As the file's name has it: q4_k_l of q4_k_l-2025+attn_v=f16."""
    return _marks(name.partition("+")[0])[0]


def of_model(found: FileType, model: str) -> FileType:
    """
    The same for a model of that name.

    The maps of January 2025 are those of DeepSeek-R1 alone: UD-Q2_K_XL of DeepSeek-V3-0324 is Dynamic 2.0.
    """
    short = model.rpartition("/")[2].lower()
    if found.base in DYNAMIC_TYPES and not found.rules and not _R1.fullmatch(short):
        return found if short.endswith(".json") else found._replace(rules=RULES_SINCE)
    return found


def by_maker(name: str, maker: str, *, revised: bool) -> str:
    """
    The name with the marks that the organisation's files all deserve; `maker` in small letters.

    TheBloke stopped in January 2024; bartowski's files have an importance matrix; Unsloth's of families of 2026 with
    experts (`revised`) follow its own mix whether or not their name says UD.
    """
    if maker == "thebloke" and name in TYPES_2023:
        return f"{name}-{RULES_2023}"
    if maker == "bartowski" and name in _PLAIN and name not in _WITHOUT_MATRIX:
        return f"{name}-imatrix"
    if maker == "unsloth" and revised and f"ud-{name}" in DYNAMIC_2_TYPES:
        return f"ud-{name}"
    return name


def tensor_types(kept: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """The types that a name gives to tensors, by our names of them."""
    return {ours: stored for name, stored in kept for ours in _TENSORS[name]}


def _marks(text: str) -> tuple[str, bool, str]:
    """The name without its marks, whether an importance matrix was used, and whose rules."""
    name, _, year = text.rpartition("-")
    rules = year if name and year in _YEARS else ""
    name = name if rules else text
    bare = name.removeprefix("i1-").removesuffix("-imatrix").removesuffix("-imat")
    return bare, bare != name, rules


def _kept(pair: str, text: str) -> tuple[str, str]:
    name, _, stored = pair.partition("=")
    if name not in _TENSORS or not stored or stored.upper() not in GGUF_FILE_TYPES:
        known = ", ".join(_TENSORS)
        raise PrecisionError(
            f"{text!r}: +{pair} names no tensor and type", hint=f"such as +attn_v=f16; tensors: {known}"
        )
    return name, default_type(stored)
