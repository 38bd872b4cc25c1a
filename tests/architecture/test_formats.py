"""What `--quant NAME` stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.architecture import storage
from vram_planner.architecture.precision import FORMATS, named_format, walk
from vram_planner.architecture.storage import BFLOAT16, FLOAT16, Rate
from vram_planner.architecture.weight import Role, Weight
from vram_planner.errors import PrecisionError
from vram_planner.model_profiles.resolve import resolve

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.precision import Uniform

SQUARE = Weight(name="w", shape=(4096, 4096), role=Role.LINEAR)
N = 4096 * 4096


def llama() -> Architecture:
    return resolve("meta-llama/Llama-3.1-8B").architecture


def named(name: str) -> Uniform:
    found = named_format(name, BFLOAT16)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("gptq-8bit", N + 32 * 4096 * 3 + 4096 * 4),
        ("gptq-3bit", N * 3 // 8 + 32 * 4096 * 19 // 8 + 4096 * 4),
        ("gptq-g32", N // 2 + 128 * 4096 * 20 // 8 + 4096 * 4),
        ("awq-channel", N // 2 + 4096 * 20 // 8),
        ("w4a16-24", N // 4 + N // 8 + 32 * 4096 * 2),
        ("bnb-int8", N + 4096 * 4),
        ("nf4-double", N // 2 + N // 64 + N // 64 // 256 * 4 + 64 + 1024),
        ("int4wo-128", N // 2 + 32 * 4096 * 4),
        ("int8wo", N + 4096 * 5),
        ("float8wo", N + 4096 * 4),
        ("hqq-4bit", N // 2 + N // 64 * 4),
        ("hqq-8bit", N + N // 64 * 4),
        ("hqq-4bit-g128", N // 2 + N // 128 * 4),
        ("int4wo-64", N // 2 + 64 * 4096 * 4),
        ("auto-round", N // 2 + 32 * 4096 * 20 // 8),
        ("w8a16", N + 4096 * 2 + 16),
        ("mxfp8", N + N // 32),
        ("hqq-2bit", N // 4 + N // 64 * 4),
        ("exl2-4.25", N * 425 // 800),
        ("exl3-3.0", N * 3 // 8 + 2 * 4096 * 2),
    ],
)
def test_bytes_of_a_square_matrix(name: str, total: int) -> None:
    linear = named(name).linear

    assert linear is not None
    assert linear.nbytes(SQUARE) == total


def test_hqq_puts_ten_three_bit_numbers_into_an_int32() -> None:
    """3.2 bits, and 0.5 for scale and zero."""
    assert storage.HQQ_3.nbytes(SQUARE) == pytest.approx(N * 3.7 / 8, rel=1e-4)


@pytest.mark.parametrize(("name", "bits"), [("exl2-4.25", 6.331), ("exl3-4.0", 6), ("exl3-4.0-h8", 8)])
def test_exl_quantises_the_head_apart_and_leaves_the_embedding(name: str, bits: float) -> None:
    """Source: exllamav2 convert.py and exllamav3 convert.py: --head_bits, 6 unless said."""
    model = llama()
    table = model.vocabulary * model.hidden
    head, embedding = (
        sum(named(name).weight_bytes(w, place) for w, place, _ in walk(model, named(name)) if w.role is role)
        for role in (Role.HEAD, Role.EMBEDDING)
    )

    assert head == pytest.approx(table * bits / 8, rel=1e-3)
    assert embedding == 2 * table


@pytest.mark.parametrize("name", ["exl2-1.5", "exl2-9", "exl3-0.5", "exl2-4.0-h7"])
def test_widths_that_exl_does_not_have(name: str) -> None:
    with pytest.raises(PrecisionError) as caught:
        named_format(name, BFLOAT16)

    assert caught.value.hint


@pytest.mark.parametrize(
    "name", ["q4_k_m", "nf4-g32", "gptq-g", "gptq-g5", "exl2", "exl4-4.0", "", "exl2-4.25 "]
)
def test_names_that_are_no_format(name: str) -> None:
    assert named_format(name, BFLOAT16) is None


@pytest.mark.parametrize("name", [*FORMATS, "gptq-g32", "awq-channel", "exl2-3.5", "exl3-2.25-h5"])
def test_every_format_keeps_its_name_and_its_base(name: str) -> None:
    other = named(name).with_base(FLOAT16)

    assert other.name == name
    assert other.base is FLOAT16
    assert llama().weights_bytes(other) == llama().weights_bytes(named(name))


@given(st.integers(2000, 7999), st.integers(1, 300), st.integers(1, 300))
def test_more_bits_never_take_less(thousandths: int, rows: int, columns: int) -> None:
    weight = Weight(name="w", shape=(rows, columns), role=Role.LINEAR)

    assert Rate("r", thousandths).nbytes(weight) <= Rate("r", thousandths + 1).nbytes(weight)
    assert Rate("r", thousandths).nbytes(weight) * 8000 >= rows * columns * thousandths
