"""Which models llama.cpp loads at all."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from vram_planner.errors import UnsupportedArchitectureError

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture

_FILE = Path(__file__).parent / "profiles" / "llama_cpp.json"


@lru_cache(maxsize=1)
def served_types() -> frozenset[str]:
    """The families, by `model_type`, that release 0.5.0 converts and loads. Its file names the source."""
    return frozenset(json.loads(_FILE.read_text(encoding="utf-8"))["model_types"])


def check_served(architecture: Architecture) -> None:
    """Refuse a family that llama.cpp has no architecture for. Raises UnsupportedArchitectureError."""
    name = architecture.model_type
    if name not in served_types():
        raise UnsupportedArchitectureError(
            f"llama.cpp v0.5.0 has no architecture for {name}",
            hint="choose another --engine: transformers runs most families, vllm many",
        )
