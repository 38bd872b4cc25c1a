"""GGUF mixes against llama.cpp's own choice of types and against published files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.architecture.gguf import (
    GGML_TYPES,
    GgufMix,
    by_whom,
    fit_row,
    gguf_precision,
    rope_factor_bytes,
)
from vram_planner.architecture.gguf_mix import use_more_bits
from vram_planner.architecture.gguf_names import GGUF_FILE_TYPES
from vram_planner.architecture.precision import walk
from vram_planner.basis import Basis
from vram_planner.errors import PrecisionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.model import Architecture

    Find = Callable[[str], Architecture]

ORACLES = Path(__file__).parent.parent / "oracles"
FILES = [
    json.loads(line) for line in (ORACLES / "llamacpp_files.jsonl").read_text(encoding="utf-8").splitlines()
]
MODELS = sorted({row["model"] for row in FILES})


def tensor_bytes(architecture: Architecture, mix: GgufMix) -> int:
    """What a file of that type holds: towers are a file of their own."""
    return rope_factor_bytes(architecture) + sum(
        mix.weight_bytes(weight, place) * count
        for weight, place, count in walk(architecture, mix)
        if weight not in architecture.towers
    )


@pytest.mark.parametrize("model", MODELS)
def test_tensor_bytes_equal_what_llama_cpp_would_write(model: str, oracle_architecture: Find) -> None:
    """
    Source: llama.cpp 0.5.0, llama_quant_compute_types without an importance matrix, on the tensors that
    its converter (b11434) makes of the configuration; 31 file types for 24 models, 12 or more for the others.
    Tolerance: none.
    """
    architecture = oracle_architecture(model)
    rows = [row for row in FILES if row["model"] == model]

    wrong = {
        row["type"]: (tensor_bytes(architecture, gguf_precision(row["type"])), row["tensor_bytes"])
        for row in rows
    }

    assert len(rows) >= 12
    assert {name: pair for name, pair in wrong.items() if pair[0] != pair[1]} == {}


def test_the_dynamic_file_of_deepseek_r1_is_as_large_as_published(oracle_architecture: Find) -> None:
    """
    140,231,438,464 bytes in three parts (unsloth/DeepSeek-R1-GGUF, DeepSeek-R1-UD-IQ1_S), of which the
    header with the vocabulary of 129,280 tokens is 5.3 MB.
    """
    n_bytes = tensor_bytes(oracle_architecture("DeepSeek-V3"), gguf_precision("1.58bit"))

    assert 0 < 140_231_438_464 - n_bytes < 6_000_000


def test_a_published_q4_k_m_differs_by_its_header(oracle_architecture: Find) -> None:
    """Ollama's qwen2.5-coder:7b, the same shapes: 4,683,087,561 bytes with the vocabulary."""
    n_bytes = tensor_bytes(oracle_architecture("Qwen2.5-7B"), gguf_precision("Q4_K_M"))

    assert 0 < 4_683_087_561 - n_bytes < 8_000_000


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("Q4_K_M", GgufMix("q4_k_m")),
        (" iq1_s ", GgufMix("iq1_s")),
        ("bfloat16", GgufMix("bf16")),
        ("UD-IQ1_S", GgufMix("ud-iq1_s", imatrix=True)),
        ("1.58bit", GgufMix("ud-iq1_s", imatrix=True, rules="r1")),
        ("1.73-bit", GgufMix("ud-iq1_m", imatrix=True, rules="r1")),
        ("i1-IQ4_XS", GgufMix("iq4_xs-imatrix", imatrix=True, follows="iq4_xs")),
        ("IQ4_XS-imatrix", GgufMix("iq4_xs-imatrix", imatrix=True, follows="iq4_xs")),
        ("Q2_K-2023", GgufMix("q2_k-2023", rules="2023", follows="q2_k")),
        (
            "Q4_K_M+attn_v=f16",
            GgufMix("q4_k_m+attn_v=f16", kept=(("attn_v", "f16"),), follows="q4_k_m"),
        ),
        (
            "Q3_K_XL",
            GgufMix(
                "q3_k_xl", imatrix=True, kept=(("token_embd", "q8_0"), ("output", "q8_0")), follows="q3_k_l"
            ),
        ),
    ],
)
def test_names_are_read_in_any_case(asked: str, expected: GgufMix) -> None:
    assert gguf_precision(asked) == expected


@pytest.mark.parametrize(
    "name",
    ["q9_x", "iq4_xs-2023", "q4_k_m+nothing=f16", "q4_k_m+attn_v", "q4_k_m+attn_v=f17", "3.14bit", "-2023"],
)
def test_names_that_are_no_file_type(name: str) -> None:
    with pytest.raises(PrecisionError) as caught:
        gguf_precision(name)

    assert caught.value.hint


def test_a_file_is_named_without_the_marks() -> None:
    names = ("q4_k_l", "iq4_xs-imatrix", "q4_k_m+attn_v=f16", "i1-q4_k_m-2025", "ud-q4_k_xl")

    assert [gguf_precision(name).title for name in names] == [
        "Q4_K_L",
        "IQ4_XS",
        "Q4_K_M",
        "Q4_K_M",
        "UD-Q4_K_XL",
    ]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PrecisionError) as caught:
        gguf_precision("q9_x")

    assert "Q4_K_M" in caught.value.hint


def test_the_maps_of_r1_are_no_rule_for_other_models(oracle_architecture: Find) -> None:
    with pytest.raises(PrecisionError, match="DeepSeek"):
        tensor_bytes(oracle_architecture("Qwen2.5-7B"), gguf_precision("1.58bit"))


def test_only_the_dynamic_mixes_are_assumed() -> None:
    bases = {name: gguf_precision(name).basis for name in GGUF_FILE_TYPES}

    assert {name for name in bases if name.startswith("UD-")} == {
        name for name, basis in bases.items() if basis is Basis.ASSUMED
    }


@pytest.mark.parametrize(
    ("model", "rules"),
    [
        ("deepseek-ai/DeepSeek-R1", ""),
        ("unsloth/DeepSeek-R1-GGUF", ""),
        ("unsloth/DeepSeek-R1-GGUF:UD-IQ1_S", ""),
        ("deepseek-ai/DeepSeek-R1-0528", "dynamic-2"),
        ("deepseek-ai/DeepSeek-V3-0324", "dynamic-2"),
        ("unsloth/DeepSeek-V3.1-GGUF", "dynamic-2"),
    ],
)
def test_only_r1_has_the_maps_of_january_2025(model: str, rules: str) -> None:
    assert gguf_precision("UD-Q2_K_XL", model).rules == rules


def test_what_is_not_published_has_a_band(oracle_architecture: Find) -> None:
    model = oracle_architecture("DeepSeek-V3")

    assert gguf_precision("q4_k_m").spread(model) is None
    assert gguf_precision("ud-q2_k_xl").spread(model) is None  # read tensor by tensor
    spread = gguf_precision("ud-q2_k_xl", "deepseek-ai/DeepSeek-V3-0324").spread(model)
    assert spread is not None
    assert spread.least < 1 < spread.most


@pytest.mark.parametrize(
    ("asked", "repository", "name"),
    [
        ("Q2_K", "TheBloke/Llama-2-7B-GGUF", "q2_k-2023"),
        ("IQ4_XS", "TheBloke/Llama-2-7B-GGUF", "iq4_xs"),
        ("Q4_K_M", "bartowski/Llama-2-7B-GGUF", "q4_k_m-imatrix"),
        ("Q8_0", "bartowski/Llama-2-7B-GGUF", "q8_0"),
        ("Q4_K_M", "unsloth/Qwen3-8B-GGUF", "q4_k_m"),
        ("Q4_K_M", "meta-llama/Llama-2-7b", "q4_k_m"),
    ],
)
def test_a_maker_has_ways_of_its_own(
    asked: str, repository: str, name: str, oracle_architecture: Find
) -> None:
    assert by_whom(asked, repository, oracle_architecture("Llama-3.1-8B")).name == name


def test_unsloth_made_its_files_of_2026_by_its_own_mix_whatever_their_name(oracle_architecture: Find) -> None:
    """unsloth/Qwen3.5-122B-A10B-GGUF, Q4_K_M: q8_0 373, q4_K 96, q5_K 48, q6_K 1, says the loader."""
    model = oracle_architecture("Qwen3.5-35B-A3B")

    assert by_whom("Q4_K_M", "unsloth/Qwen3.5-35B-A3B-GGUF", model).name == "ud-q4_k_m"


@pytest.mark.parametrize("model", ["Llama-3.1-8B", "Qwen3-30B-A3B"])
def test_an_importance_matrix_spares_the_first_down_projections(
    model: str, oracle_architecture: Find
) -> None:
    """IQ4_XS without one has Q5_K there, Q4_0 with one Q4_1 (llama_tensor_get_type_impl)."""
    architecture = oracle_architecture(model)

    def size(name: str) -> int:
        return tensor_bytes(architecture, gguf_precision(name))

    assert size("iq4_xs-imatrix") < size("iq4_xs")
    assert size("q4_0-imatrix") > size("q4_0")
    assert size("q4_k_m-imatrix") == size("q4_k_m")


def test_rows_that_blocks_do_not_divide_fall_back() -> None:
    """896 columns (Qwen2.5-0.5B) are no multiple of 256 but one of 32; 100 are neither."""
    assert fit_row("q4_k", 896) == "q5_0"
    assert fit_row("q6_k", 896) == "q8_0"
    assert fit_row("iq4_xs", 896) == "iq4_nl"
    assert fit_row("q4_k", 1024) == "q4_k"
    assert fit_row("q4_k", 100) == "f16"


def test_half_of_32_layers_get_more_bits() -> None:
    """4 first, 4 last, and every third of the 24 between: 16 in all."""
    assert sum(use_more_bits(index, 32) for index in range(32)) == 16


@given(st.sampled_from(sorted(GGML_TYPES)), st.integers(1, 20_000))
def test_the_type_that_a_row_gets_divides_it(name: str, columns: int) -> None:
    chosen = GGML_TYPES[fit_row(name, columns)]

    assert columns % getattr(chosen, "elements", 1) == 0


@pytest.mark.parametrize("model", ["Llama-3.1-8B", "Qwen3-30B-A3B", "DeepSeek-V2-Lite"])
def test_more_bits_never_make_a_smaller_file(model: str, oracle_architecture: Find) -> None:
    ladder = (
        "iq1_s",
        "q2_k",
        "q3_k_s",
        "q3_k_m",
        "q3_k_l",
        "q4_k_s",
        "q4_k_m",
        "q5_k_s",
        "q5_k_m",
        "q6_k",
        "q8_0",
        "f16",
    )
    sizes = [tensor_bytes(oracle_architecture(model), gguf_precision(name)) for name in ladder]

    assert sizes == sorted(sizes)
