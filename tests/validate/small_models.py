"""Configurations of about 100 M parameters, one a family, and how to make their files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

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
FAMILIES: dict[str, dict[str, Any]] = {
    "dense": {"model_type": "qwen2", **_COMMON},
    "experts": {
        "model_type": "mixtral", **_COMMON, "intermediate_size": 512, "num_hidden_layers": 7,
        "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None,
    },
    "sliding": {"model_type": "mistral", **_COMMON, "sliding_window": 64},
}  # fmt: skip


def save_model(torch: Any, transformers: Any, family: str, folder: Path) -> int:
    """Random weights in bfloat16 as safetensors; says how many parameters."""
    values = dict(FAMILIES[family])
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())
