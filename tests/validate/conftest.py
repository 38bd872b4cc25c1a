"""Configurations of about 100 M parameters, one a family: `dense`, `experts`, `sliding`."""

from __future__ import annotations

from typing import Any

import pytest

_COMMON = {
    "hidden_size": 640,
    "intermediate_size": 1792,
    "num_hidden_layers": 12,
    "num_attention_heads": 10,
    "num_key_value_heads": 2,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
_FAMILIES: dict[str, dict[str, Any]] = {
    "dense": {"model_type": "qwen2", **_COMMON},
    "experts": {
        "model_type": "mixtral", **_COMMON, "intermediate_size": 512, "num_hidden_layers": 7,
        "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None,
    },
    "sliding": {"model_type": "mistral", **_COMMON, "sliding_window": 64},
}  # fmt: skip


@pytest.fixture(scope="session")
def families() -> dict[str, dict[str, Any]]:
    """Each family's fields of a config.json."""
    return _FAMILIES
