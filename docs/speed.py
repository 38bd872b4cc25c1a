"""The errors of the speed model by engine and class, from the files of its constants: a table for explanation/speed.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vram_planner.planning import performance_constants

_FILES = Path(performance_constants.__file__).parent / "constants"
_NAMES = {"vllm": "vLLM", "sglang": "SGLang", "tensorrt-llm": "TensorRT-LLM"}
_KINDS = {"dense": "one card, dense", "several": "several cards", "experts": "experts"}
_FIGURES = {
    "TPOT": "TPOT",
    "TTFT": "TTFT",
    "prefill": "prompt",
    "throughput": "tokens/s",
    "saturated": "tokens/s, full",
}
_LEAST = 10  # rows of a class that are worth a line


def table() -> str:
    """A row for each engine, kind and figure: median and 90th percentile."""
    found = [
        "| engine, and what is served | figure | rows | fitted rows | whole sources left out |",
        "| --- | --- | --- | --- | --- |",
    ]
    for engine in ("vllm", "sglang", "tensorrt-llm", "llama.cpp", "transformers"):
        fit = json.loads((_FILES / f"{engine}.json").read_text(encoding="utf-8"))["fit"]
        for kind, served in _KINDS.items():
            for figure, shown in _FIGURES.items():
                here = fit["in_sample"].get(f"{figure} {kind}")
                if here is not None and here["n"] >= _LEAST:
                    there = fit["held_out_by_source"][f"{figure} {kind}"]
                    name = _NAMES.get(engine, engine)
                    found.append(
                        f"| {name}, {served} | {shown} | {here['n']} | {_errors(here)} | {_errors(there)} |"
                    )
    return "\n".join(found)


def _errors(of: dict[str, Any]) -> str:
    return f"{of['median']:.0%} ({of['p90']:.0%})".replace("%", " %")
