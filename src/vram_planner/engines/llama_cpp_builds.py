"""llama.cpp by its build number: what a build of that age does otherwise."""

from __future__ import annotations

import re

# The cache is written with ggml_set_rows, whose row numbers are inputs of the graph: "enable LLAMA_SET_ROWS=1 by default",
# merged on 2 August 2025. Source: https://github.com/ggml-org/llama.cpp/pull/14959; its builds lie just after this one.
SET_ROWS = 6060
# llama-server keeps prompts in host memory: merged in October 2025; its builds lie just after this one.
# Source: https://github.com/ggml-org/llama.cpp/pull/16391.
PROMPT_CACHE = 6700
THIS_BUILD = 11434
_BUILD = re.compile(r"b(\d{3,6})\b")


def before(version: str | None, build: int) -> bool:
    """Whether a version as in 'b2824' is older than a build; releases and what is not known are not."""
    found = _BUILD.match(version or "")
    return found is not None and int(found[1]) < build
