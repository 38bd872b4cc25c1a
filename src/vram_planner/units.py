"""Text becomes bytes and tokens where it enters; bytes become text where they leave."""

from __future__ import annotations

import re

from vram_planner.errors import SizeError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_BYTES_PER = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": KIB,
    "MiB": MIB,
    "GiB": GIB,
    "TiB": 1 << 40,
}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]i?B|B)")
_TOKENS = re.compile(r"([0-9][0-9,_]*(?:\.[0-9]+)?)([kKmMgG]?)")
# As vLLM reads --max-model-len: a small letter is decimal, a capital is binary.
_TOKENS_PER = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": KIB, "M": MIB, "G": GIB}
_SECONDS = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(ms|s|min|h|)")
_SECONDS_PER = {"": 1.0, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_BITS = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([MGT])b(?:it)?(?:/s|ps)(/node)?")
_BITS_PER = {"M": 1e6, "G": 1e9, "T": 1e12}
_LONGEST_NUMBER = 32


def parse_size(text: str) -> int:
    """
    Read '24GiB' or '24GB' as bytes.

    '24G' is refused, for half the field reads it as 2**30 and half as 10**9.
    """
    match = _SIZE.fullmatch(text.strip()[: _LONGEST_NUMBER + 1])
    if match is None:
        raise SizeError(
            f"cannot read the size {text[:_LONGEST_NUMBER]!r}",
            hint="write 24GiB (2**30 bytes each) or 24GB (10**9 bytes each)",
        )
    from decimal import Decimal  # noqa: PLC0415  4 ms, and most plans read no size

    return int(Decimal(match[1]) * _BYTES_PER[match[2]])


def parse_tokens(text: str | int) -> int:
    """Read 32768, '32,768', '32K' (32,768) or '32k' (32,000) as a whole number of tokens."""
    if isinstance(text, int):
        return text
    match = _TOKENS.fullmatch(text.strip()[: _LONGEST_NUMBER + 1])
    if match is not None:
        whole, _, fraction = match[1].replace(",", "").replace("_", "").partition(".")
        tokens, rest = divmod(int(whole + fraction) * _TOKENS_PER[match[2]], 10 ** len(fraction))
        if not rest:
            return int(tokens)
    raise SizeError(
        f"cannot read {text[:_LONGEST_NUMBER]!r} as a number of tokens",
        hint="write 32768, 32,768, 32K (32,768) or 32k (32,000)",
    )


def parse_seconds(text: str | float) -> float:
    """Read 0.05, '0.05', '50ms', '1s', '2min' or '1h' as seconds."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text)
    match = _SECONDS.fullmatch(str(text).strip()[: _LONGEST_NUMBER + 1])
    if match is None:
        raise SizeError(
            f"cannot read {str(text)[:_LONGEST_NUMBER]!r} as a time", hint="write 50ms, 1s, 0.05 or 2min"
        )
    return float(match[1]) * _SECONDS_PER[match[2]]


def parse_bits_per_s(text: str) -> tuple[float, bool]:
    """
    Read '400Gb/s' (also Gbit/s, Gbps, Mb/s, Tb/s) as bits a second, and whether '/node' followed.

    '100GB/s' and '100G' are refused: links are sold in bits, and a byte has eight of them.
    """
    match = _BITS.fullmatch(text.strip()[: _LONGEST_NUMBER + 1])
    if match is None or not float(match[1]):
        raise SizeError(
            f"cannot read {text[:_LONGEST_NUMBER]!r} as the speed of a network",
            hint="bits a second: 400Gb/s for each GPU, or 100Gb/s/node that all GPUs of a server share",
        )
    return float(match[1]) * _BITS_PER[match[2]], match[3] is not None


def format_gib(n_bytes: int, digits: int = 2) -> str:
    """Bytes as a bare number of GiB; the caller names the unit."""
    return f"{n_bytes / GIB:.{digits}f}"


def format_count(count: int) -> str:
    """A parameter count as people say it: 7.62 B, 671 B, 270 M."""
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size * 0.9995:
            return f"{count / size:.3g} {letter}"
    return str(count)


def ceil_div(numerator: int, denominator: int) -> int:
    """The smallest whole number that is not below the quotient."""
    return -(-numerator // denominator)


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple that is not below the value."""
    return ceil_div(value, multiple) * multiple
