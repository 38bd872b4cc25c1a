"""The register: every engine once, by the name that `--engine` takes."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, cast

from vram_planner.errors import UnknownEngineError

if TYPE_CHECKING:
    from vram_planner.engines.base import Engine

# A new engine is one module and one line here. Modules are loaded when they are asked for.
ENGINES: dict[str, str] = {
    "vllm": "vram_planner.engines.vllm:Vllm",
    "sglang": "vram_planner.engines.sglang:Sglang",
    "llama.cpp": "vram_planner.engines.llama_cpp:LlamaCpp",
    "ollama": "vram_planner.engines.ollama:Ollama",
    "tensorrt-llm": "vram_planner.engines.tensorrt_llm:TensorRtLlm",
    "transformers": "vram_planner.engines.transformers:Transformers",
}
# Engines whose memory a sweep may put together from what changes with what: the module that says how (tables.py).
TABLES: dict[str, str] = {
    "vllm": "vram_planner.engines.vllm_table",
    "sglang": "vram_planner.engines.sglang_table",
    "tensorrt-llm": "vram_planner.engines.tensorrt_llm_table",
    "llama.cpp": "vram_planner.engines.llama_cpp_table",
    "transformers": "vram_planner.engines.transformers_table",
}
_ALIASES = {
    "llamacpp": "llama.cpp",
    "llama-cpp": "llama.cpp",
    "llama-server": "llama.cpp",
    "trtllm": "tensorrt-llm",
    "trt-llm": "tensorrt-llm",
    "hf": "transformers",
}


@lru_cache(maxsize=8)
def engine(name: str) -> Engine:
    """The engine of that name; UnknownEngineError with the nearest ones."""
    key = _ALIASES.get(name.lower(), name.lower())
    if key not in ENGINES:
        from difflib import get_close_matches  # noqa: PLC0415  only for mistakes

        near = get_close_matches(key, ENGINES, n=1) or list(ENGINES)
        raise UnknownEngineError(
            f"no engine is called {name[:40]!r}", hint=f"did you mean {near[0]}? known: {', '.join(ENGINES)}"
        )
    module, _, kind = ENGINES[key].partition(":")
    return cast("Engine", getattr(import_module(module), kind)())
