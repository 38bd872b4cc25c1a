"""The spellings of a format that people type."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.architecture.format_names import canonical, nearest
from vram_planner.architecture.gguf_names import GGUF_FILE_TYPES
from vram_planner.architecture.precision import DTYPES, FORMATS, named_format
from vram_planner.architecture.storage import BFLOAT16


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("hqq", "hqq-4bit"),
        ("hqq-4", "hqq-4bit"),
        ("HQQ3", "hqq-3bit"),
        ("hqq-2bits-g32", "hqq-2bit-g32"),
        ("exl2-4.0bpw", "exl2-4.0"),
        ("exl2:4.0", "exl2-4.0"),
        ("exl2_4.25bpw-h8", "exl2-4.25-h8"),
        ("exl3-3.5bpw", "exl3-3.5"),
        ("torchao-int4", "int4wo-128"),
        ("torchao-int4-g64", "int4wo-64"),
        ("int4wo", "int4wo-128"),
        ("int4wo-32", "int4wo-32"),
        ("int4_weight_only", "int4wo-128"),
        ("int8_weight_only", "int8wo"),
        ("int8_dynamic_activation_int8_weight", "int8dq"),
        ("torchao-int8", "int8wo"),
        ("torchao_float8wo", "float8wo"),
        ("float8_dynamic_activation_float8_weight", "float8dq"),
        ("autoround", "auto-round"),
        ("bitsandbytes", "nf4-double"),
        ("GPTQ-Int4", "gptq"),
        ("gptq-int8", "gptq-8bit"),
        ("awq_int4", "awq"),
        ("fp8-channel", "fp8-dynamic"),
        ("2:4", "w4a16-24"),
        ("w4a16-2:4", "w4a16-24"),
    ],
)
def test_spellings(typed: str, name: str) -> None:
    assert canonical(typed) == name
    assert named_format(canonical(typed), BFLOAT16) is not None


@pytest.mark.parametrize("name", [*FORMATS, *DTYPES, *map(str.lower, GGUF_FILE_TYPES), "gptq-g32"])
def test_a_name_stands_for_itself(name: str) -> None:
    assert canonical(name) == name


@given(st.text(max_size=30))
def test_a_second_time_changes_nothing(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("hqqq", "hqq"),
        ("exl2", "exl2-4.0"),
        ("compressed-tensors", "fp8-dynamic, w8a8"),
        ("q4_k_n", "Q4_K_M"),
        ("int4w", "int4wo"),
        ("fp9", "fp8"),
        ("xyz", "awq"),
    ],
)
def test_a_wrong_name_is_told_the_near_ones(wrong: str, near: str) -> None:
    assert near in nearest(wrong, GGUF_FILE_TYPES)
