"""The spellings under which people know a number format, and the nearest names to a wrong one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from vram_planner.architecture.precision import DTYPES, FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterable

_SAME: Final = {
    "hqq": "hqq-4bit",
    "torchao": "int4wo-128",
    "int4wo": "int4wo-128",
    "int4-weight-only": "int4wo-128",
    "int8-weight-only": "int8wo",
    "int8-dynamic-activation-int8-weight": "int8dq",
    "float8-weight-only": "float8wo",
    "float8-dynamic-activation-float8-weight": "float8dq",
    "fp8wo": "float8wo",
    "fp8dq": "float8dq",
    "autoround": "auto-round",
    "bnb": "nf4-double",
    "bnb-4bit": "nf4-double",
    "bnb-nf4": "nf4-double",
    "bnb-8bit": "bnb-int8",
    "bitsandbytes": "nf4-double",
    "marlin-24": "w4a16-24",
    "2:4": "w4a16-24",
    "w4a16-2:4": "w4a16-24",
    "gptq-int4": "gptq",
    "gptq-4bit": "gptq",
    "gptq-int3": "gptq-3bit",
    "gptq-int8": "gptq-8bit",
    "awq-int4": "awq",
    "awq-4bit": "awq",
    "fp8-channel": "fp8-dynamic",
    "fp8-tensor": "fp8",
}
# Each spelling with what it becomes: exl2:4.0, exl3-3.5bpw, exl2_4.25bpw-h8; hqq-4, hqq-4bits-g128; torchao-int4.
_REWRITTEN: Final = (
    (re.compile(r"(exl[23])[-:@]?(\d(?:\.\d{1,3})?)(?:bpw)?(-h\d)?"), r"\1-\2\3"),
    (re.compile(r"hqq[-:]?(8|6|5|4|3|2|1)(?:-?bits?)?(-g\d+)?"), r"hqq-\1bit\2"),
    (re.compile(r"(?:torchao-)?int4(?:wo|-weight-only)[-:]g?(\d+)"), r"int4wo-\1"),
    (re.compile(r"torchao-int4(?:-g?(\d+))?"), lambda found: f"int4wo-{found[1] or 128}"),
    (re.compile(r"torchao-(int8|float8|fp8)"), r"\1wo"),
    (re.compile(r"torchao-(.+)"), r"\1"),
)
_MOST_NEAR: Final = 4
_LONGEST: Final = 60


def canonical(name: str) -> str:
    """
    The one name of a format: 'exl2:4.0' and 'exl2-4.0bpw' are 'exl2-4.0', 'hqq' is 'hqq-4bit'.

    A name that no rule knows comes back in small letters.
    """
    given = name.strip().lower()
    text = given.replace("_", "-")[:_LONGEST]
    for spelling, into in _REWRITTEN:
        if spelling.fullmatch(text):
            text = spelling.sub(into, text)
            break
    else:
        if text not in _SAME and text not in FORMATS:
            return given  # q4_k_m keeps its underscores
    return _SAME.get(text, text)


def nearest(name: str, others: Iterable[str]) -> str:
    """A hint: the known names that look like a wrong one, and where all of them stand."""
    from difflib import get_close_matches  # noqa: PLC0415  only for mistakes

    text = name.strip().lower()
    if text.startswith(("exl2", "exl3")):
        kind = text[:4]
        return f"say the bits for each weight: --quant {kind}-4.0 or {kind}:4.0bpw"
    if text.replace("_", "-").startswith("compressed-tensors"):
        return "it holds many formats: --quant fp8-dynamic, w8a8, w8a16, w4a16, w4a16-24 or nvfp4"
    known = {each.lower(): each for each in (*DTYPES, *FORMATS, *_SAME, *others)}
    near = get_close_matches(text, known, n=_MOST_NEAR, cutoff=0.5)
    near += [each for each in known if text[:3] and each.startswith(text[:3]) and each not in near]
    listed = ", ".join(known[each] for each in near[:_MOST_NEAR])
    everything = "docs/reference/formats.md has all names"
    return f"did you mean {listed}? {everything}" if listed else f"awq, gptq, fp8, q4_k_m …: {everything}"
