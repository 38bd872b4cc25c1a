"""
Unsloth's dynamic mixes (`UD-`).

Two kinds. The four files of DeepSeek-R1 of January 2025 have known maps. Those made since (Dynamic 2.0 of April 2025,
and its revision of March 2026) are chosen tensor by tensor for each model and not published as rules: what stands here is
the part that the loaders' counts of types show in every file read, and a band for the rest.
"""

from __future__ import annotations

from typing import NamedTuple

from vram_planner.architecture.gguf_mix import Category, Tensor, category_of


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


class Spread(NamedTuple):
    """Published size over ours, least and most, of the files that were read for it."""

    least: float
    most: float


def dynamic_base(file_type: str) -> str:
    """The llama.cpp file type whose rules hold where those of this module do not: ud-q4_k_xl is a q4_k_m."""
    plain = file_type.removeprefix("ud-")
    return _BASES.get(plain, plain)


_BASES = {
    "q2_k_xl": "q2_k", "q3_k_xl": "q3_k_m", "q4_k_xl": "q4_k_m", "q5_k_xl": "q5_k_m", "q6_k_xl": "q6_k", "q8_k_xl": "q8_0",
}  # fmt: skip
# Which of Unsloth's names are read, beside the four of DeepSeek-R1.
DYNAMIC_2_TYPES = tuple(
    f"ud-{name}"
    for name in (
        "q2_k_xl", "q3_k_xl", "q4_k_xl", "q5_k_xl", "q6_k_xl", "q8_k_xl", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m", "q5_k_s",
        "q5_k_m", "q6_k", "iq1_s", "iq1_m", "iq2_xxs", "iq2_m", "iq3_xxs", "iq3_s", "iq4_xs", "iq4_nl", "tq1_0",
    )
)  # fmt: skip
_LADDER = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0")
# Families first published after the revision of March 2026 (https://unsloth.ai/docs/models/qwen3.5/gguf-benchmarks:
# "quantizing any attn_* is especially sensitive for hybrid architectures", ssm_out and ffn_down_exps likewise).
_REVISED = ("qwen3_5", "gemma4", "nemotron_h")
_REVISED_USUAL = "q8_0"
# Down of the experts where gate and up have a type of one to three bits: as in the files of DeepSeek-R1, one step on.
_IQ_DOWN = {"iq1_s": "iq1_s", "iq1_m": "iq2_xs", "iq2_xxs": "q2_k", "iq3_xxs": "q3_k"}


def revised(model_type: str) -> bool:
    """Whether Unsloth made the family's files after March 2026."""
    return model_type.startswith(_REVISED)


def dynamic_2_type(file_type: str, name: str, tensor: Tensor, *, later: bool) -> str | None:
    """
    The type of a tensor in a Dynamic 2.0 file of a model with experts; None where llama.cpp's own rule is our guess.

    2025: gate and up of the experts in the named type, down too (Q3_K in Q2_K_XL), one step more in the first and the
    last eighth of the layers; all else Q4_K or more, attn_k_b and attn_v_b Q8_0, the head Q6_K. Read of the loader's
    counts of DeepSeek-V3-0324 (UD-Q2_K_XL, UD-Q3_K_XL, UD-Q4_K_XL) and Qwen3-30B-A3B (UD-Q4_K_XL); the eighths stand for
    a choice that the counts do not place, and meet the totals of nine files within 1.1 %.
    2026 (`later`): gate and up in the named type, down one step more, the head Q6_K, all else Q8_0. Read of
    Qwen3.5-122B-A10B Q4_K_M of March 2026: q8_0 373, q4_K 96, q5_K 48, q6_K 1.
    """
    base = _usual(file_type)
    known = base in _LADDER or base in _IQ_DOWN
    if not tensor.n_experts or not known:
        return None
    if name.startswith("experts."):
        return base if category_of(name) is not Category.FFN_DOWN else _down(base, tensor, later=later)
    if name == "lm_head":
        return "q8_0" if base == "q8_0" else "q6_k"
    if later or name in ("k_b_proj", "v_b_proj"):
        return _REVISED_USUAL
    return max("q4_k", base, key=_LADDER.index) if base in _LADDER else "q4_k"


def _usual(file_type: str) -> str:
    """q4_k of ud-q4_k_m, iq3_xxs of ud-iq3_xxs."""
    base = dynamic_base(file_type)
    return base.removesuffix("_m").removesuffix("_s") if base.startswith("q") else base


def _down(base: str, tensor: Tensor, *, later: bool) -> str:
    if base in _IQ_DOWN:
        return _IQ_DOWN[base]
    if later:
        return _step_up(base)
    usual = _step_up(base) if base == "q2_k" else base
    eighth = tensor.n_layers // 8
    return usual if eighth <= tensor.layer < tensor.n_layers - eighth else _step_up(usual)


def _step_up(stored: str) -> str:
    return _LADDER[min(_LADDER.index(stored) + 1, len(_LADDER) - 1)]


# Published over ours, rounded outwards: with experts 0.99 to 1.015 (17 files of 2 to 5 bits), dense 1.0 to 1.013 (2), six
# bits 1.013 (1), eight bits 1.04 to 1.25 (3); of the others one is known, UD-Q3_K_S of MiniMax-M2.7 at 0.92.
# Source: tests/oracles/gguf_file_sizes.jsonl and gguf_file_sizes_later.jsonl, which name each file.
_WITH_EXPERTS = Spread(0.97, 1.03)
_DENSE = Spread(0.96, 1.06)
_SIX_BITS = Spread(0.98, 1.07)
_EIGHT_BITS = Spread(0.99, 1.26)
_OTHER = Spread(0.90, 1.12)
_XL = ("ud-q2_k_xl", "ud-q3_k_xl", "ud-q4_k_xl", "ud-q5_k_xl", "ud-q4_k_m", "ud-q5_k_m", "ud-iq3_xxs")


def dynamic_spread(file_type: str, *, experts: bool) -> Spread:
    """The band around our size of a Dynamic 2.0 file."""
    if file_type == "ud-q8_k_xl":
        return _EIGHT_BITS
    if file_type in ("ud-q6_k_xl", "ud-q6_k"):
        return _SIX_BITS
    if file_type in _XL:
        return _WITH_EXPERTS if experts else _DENSE
    return _OTHER
