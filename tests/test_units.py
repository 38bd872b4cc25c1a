from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.errors import SizeError
from vram_planner.units import (
    ceil_div,
    format_count,
    format_gib,
    parse_bits_per_s,
    parse_size,
    parse_tokens,
    round_up,
)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("24GiB", 24 * 2**30), ("24GB", 24 * 10**9), ("1.5 MiB", 1_572_864), (" 7B ", 7), ("80 GB", 80 * 10**9)],
)
def test_sizes_name_their_unit(text: str, n_bytes: int) -> None:
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize(
    "text", ["24G", "24", "", "GiB", "-1GiB", "1e3GB", "24 gib", "9" * 50 + "GiB", "1,5GiB"]
)
def test_a_bare_g_is_refused(text: str) -> None:
    with pytest.raises(SizeError) as caught:
        parse_size(text)

    assert "24GiB" in caught.value.hint


@given(st.integers(0, 10**15))
def test_bytes_read_back_as_themselves(n_bytes: int) -> None:
    assert parse_size(f"{n_bytes}B") == n_bytes


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("32768", 32_768),
        ("32,768", 32_768),
        ("32K", 32_768),
        ("32k", 32_000),
        ("1M", 2**20),
        ("1m", 10**6),
        ("0.5K", 512),
    ],
)
def test_tokens_as_vllm_reads_them(text: str, tokens: int) -> None:
    assert parse_tokens(text) == tokens


@pytest.mark.parametrize("text", ["", "k", "1.5", "-8", "8 192 tokens", "1.0001k", "٣"])
def test_odd_token_counts_are_refused(text: str) -> None:
    with pytest.raises(SizeError):
        parse_tokens(text)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (parse_size, parse_tokens):
        try:
            value = read(text)
        except SizeError:
            continue
        assert value >= 0


@given(st.integers(0, 10**12), st.integers(1, 10**6))
def test_rounding_up(value: int, multiple: int) -> None:
    assert round_up(value, multiple) % multiple == 0
    assert value <= round_up(value, multiple) < value + multiple
    assert ceil_div(value, multiple) * multiple == round_up(value, multiple)


def test_printing() -> None:
    assert format_gib(15_231_233_024) == "14.19"
    assert format_count(7_615_616_512) == "7.62 B"
    assert format_count(671_026_404_352) == "671 B"
    assert format_count(999) == "999"


@pytest.mark.parametrize(
    ("text", "bits", "shared"),
    [
        ("400Gb/s", 4e11, False),
        ("100 Gbit/s", 1e11, False),
        ("2.5Gbps", 2.5e9, False),
        ("1.6Tb/s/node", 1.6e12, True),
    ],
)
def test_networks_are_said_in_bits(text: str, bits: float, shared: bool) -> None:
    assert parse_bits_per_s(text) == (bits, shared)


@pytest.mark.parametrize(
    "text", ["400", "400G", "400GB/s", "50 GB/s", "Gb/s", "-1Gb/s", "0Gb/s", "4e2Gb/s", "9" * 50 + "Gb/s"]
)
def test_bytes_of_a_network_are_refused(text: str) -> None:
    with pytest.raises(SizeError) as caught:
        parse_bits_per_s(text)

    assert "400Gb/s" in caught.value.hint
