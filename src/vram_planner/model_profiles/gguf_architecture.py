"""
The architecture that a GGUF file describes in its own metadata, by way of the config.json it was made from.

Each GGUF architecture is written back into the keys that transformers would have, so that one set of families serves
both. Keys: https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py; what the converter writes under
them: https://github.com/ggml-org/llama.cpp/tree/master/conversion.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from vram_planner.architecture.stored_header import GgufFile
from vram_planner.errors import ConfigError, HeaderError, UnsupportedArchitectureError
from vram_planner.model_profiles.assign import assign, remarks
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.model_profiles.gguf import MOST_TENSORS, Skipped
from vram_planner.model_profiles.gguf_families import FAMILIES
from vram_planner.model_profiles.headers import short_name
from vram_planner.model_profiles.tensor_names import gguf_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.headers import Header

# Source: llama.cpp, include/llama.h, enum llama_ftype.
_FILE_TYPES: Final[Mapping[int, str]] = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k", 11: "q3_k_s", 12: "q3_k_m",
    13: "q3_k_l", 14: "q4_k_s", 15: "q4_k_m", 16: "q5_k_s", 17: "q5_k_m", 18: "q6_k", 19: "iq2_xxs", 20: "iq2_xs",
    21: "q2_k_s", 22: "iq3_xs", 23: "iq3_xxs", 24: "iq1_s", 25: "iq4_nl", 26: "iq3_s", 27: "iq3_m", 28: "iq2_s",
    29: "iq2_m", 30: "iq4_xs", 31: "iq1_m", 32: "bf16", 36: "tq1_0", 37: "tq2_0", 38: "mxfp4_moe",
}  # fmt: skip
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.\-]{0,63}")
_HINT: Final = "the file's metadata are damaged or unusual: give the model's config.json and --quant instead"


class GgufFacts:
    """The figures of one file: its metadata under the architecture's prefix, and its tensors by name."""

    def __init__(self, header: Header) -> None:
        """Of a header. Raises HeaderError where it names no architecture."""
        self.source = short_name(header.source)
        name = header.metadata.get("general.architecture")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            self.refuse("it names no architecture (general.architecture)")
        self.name = name
        self._metadata = header.metadata
        self.shapes = {tensor.name: tensor.shape for tensor in header.tensors}

    def refuse(self, what: str) -> NoReturn:
        """Raise HeaderError about the file."""
        raise HeaderError(f"{self.source}: {what}", hint=_HINT)

    def raw(self, key: str) -> Any:
        """The value of one of the architecture's own keys, None where there is none."""
        return self._metadata.get(f"{self.name}.{key}")

    def number(self, key: str, default: int | None = None) -> int:
        """A whole number; a list of equal ones counts as one."""
        value = self.raw(key)
        if isinstance(value, tuple) and value:
            if len(set(value)) > 1:
                self.refuse(f"{self.name}.{key} differs between layers, which is not supported")
            value = value[0]
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(f"{self.name}.{key} is {'missing' if value is None else 'no whole number'}")
        return value

    def optional(self, key: str) -> int | None:
        """As `number`, None where the key is absent or 0."""
        return None if self.raw(key) is None else self.number(key) or None

    def has(self, module: str) -> bool:
        """Whether any layer has a tensor of that name, as in 'attn_q.bias'."""
        layers = min(self.number("block_count"), MOST_TENSORS)
        return any(f"blk.{index}.{module}" in self.shapes for index in range(layers))

    def rows(self, tensor: str) -> int | None:
        """The outer dimension of a tensor, None where the file does not have it."""
        shape = self.shapes.get(tensor)
        return shape[0] if shape else None


def gguf_config(header: Header) -> dict[str, Any]:
    """
    The config.json that the file's metadata amount to.

    Raises UnsupportedArchitectureError for an architecture that no family of ours stands for, HeaderError for
    figures that are missing.
    """
    facts = GgufFacts(header)
    family = FAMILIES.get(facts.name)
    if family is None:
        raise UnsupportedArchitectureError(
            f"{facts.source}: the GGUF architecture {facts.name!r} is not supported",
            hint=f"we read {', '.join(sorted(FAMILIES))}; or give a config.json and --quant",
        )
    config = _common(facts)
    for key, value in family(facts).items():
        config[key] = value
    return config


def _common(facts: GgufFacts) -> dict[str, Any]:
    heads = facts.number("attention.head_count")
    hidden = facts.number("embedding_length")
    layers = facts.number("block_count") - facts.number("nextn_predict_layers", 0)
    config: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": facts.number("attention.head_count_kv", heads),
        "max_position_embeddings": facts.optional("context_length"),
        "vocab_size": facts.rows("token_embd.weight") or facts.optional("vocab_size") or _tokens(facts),
        "tie_word_embeddings": "output.weight" not in facts.shapes,
        # What is left unquantised in a checkpoint; the file's own types replace it.
        "torch_dtype": "bfloat16",
    }
    key_length = facts.optional("attention.key_length")
    if key_length:
        config["head_dim"] = key_length
    elif heads > 0 and hidden % heads == 0:
        config["head_dim"] = hidden // heads
    if facts.raw("feed_forward_length") is not None:
        config["intermediate_size"] = facts.number("feed_forward_length") or None
    return config


def _tokens(facts: GgufFacts) -> int | None:
    tokens = facts._metadata.get("tokenizer.ggml.tokens")  # noqa: SLF001  the one key without the prefix
    return tokens.count if isinstance(tokens, Skipped) else None


def gguf_profile(header: Header) -> tuple[Architecture, dict[str, Any]]:
    """
    The architecture of a GGUF file with its own tensors as precision, and the config it amounts to.

    What its metadata and its tensors do not agree on is told in the architecture's notes. Raises
    UnsupportedArchitectureError or HeaderError.
    """
    config = gguf_config(header)
    if not header.tensors:
        raise HeaderError(f"{short_name(header.source)}: no tensors, only a vocabulary", hint=_HINT)
    try:
        architecture = architecture_from_config(config)
    except ConfigError as error:
        raise HeaderError(f"{short_name(header.source)}: {error}", hint=_HINT) from error
    found = assign(architecture, header.tensors, gguf_name)
    file_type = _FILE_TYPES.get(header.metadata.get("general.file_type", -1)) or _most(header)
    precision = GgufFile(
        # Told apart from the quantiser's mix of that name, which --quant would give.
        name=f"{file_type} as stored",
        path=header.source,
        file_type=file_type,
        tensors_of={spot: tuple(tensors) for spot, tensors in found.tensors_of.items()},
        bytes_of=found.bytes_of,
        shared=found.shared(architecture),
    )
    notes = (*architecture.notes, *header.notes, *remarks(found, what="metadata"))
    return replace(architecture, precision=precision, notes=notes), config


def _most(header: Header) -> str:
    """The type that most bytes have."""
    return next(iter(header.bytes_by_dtype), "f16")
