"""
The architecture that a GGUF file describes in its own metadata, by way of the config.json it was made from.

Each GGUF architecture is written back into the keys that transformers would have, so that one set of families serves
both. Keys: https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py; what the converter writes under
them: https://github.com/ggml-org/llama.cpp/tree/master/conversion.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from vram_planner.architecture.stored_header import GgufFile
from vram_planner.errors import ConfigError, HeaderError
from vram_planner.model_profiles.assign import assign, remarks
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.model_profiles.gguf_facts import UNUSUAL, GgufFacts
from vram_planner.model_profiles.gguf_families import FAMILIES
from vram_planner.model_profiles.gguf_refused import refuse_architecture, refuse_draft, refuse_type
from vram_planner.model_profiles.headers import short_name
from vram_planner.model_profiles.tensor_names import gguf_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.headers import Header

# Source: llama.cpp, include/llama.h, enum llama_ftype.
_FILE_TYPES: Final[Mapping[int, str]] = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k", 11: "q3_k_s", 12: "q3_k_m",
    13: "q3_k_l", 14: "q4_k_s", 15: "q4_k_m", 16: "q5_k_s", 17: "q5_k_m", 18: "q6_k", 19: "iq2_xxs", 20: "iq2_xs",
    21: "q2_k_s", 22: "iq3_xs", 23: "iq3_xxs", 24: "iq1_s", 25: "iq4_nl", 26: "iq3_s", 27: "iq3_m", 28: "iq2_s",
    29: "iq2_m", 30: "iq4_xs", 31: "iq1_m", 32: "bf16", 36: "tq1_0", 37: "tq2_0", 38: "mxfp4_moe",
}  # fmt: skip


def gguf_config(facts: GgufFacts) -> dict[str, Any]:
    """
    The config.json that the file's metadata amount to.

    Raises UnsupportedArchitectureError for an architecture that no family of ours stands for, HeaderError for
    figures that are missing.
    """
    family = FAMILIES.get(facts.name)
    if family is None:
        refuse_architecture(facts, len(FAMILIES))
    refuse_draft(facts)
    own = family(facts)
    return {**_common(facts, own), **own}


def _common(facts: GgufFacts, own: Mapping[str, Any]) -> dict[str, Any]:
    """What most families share; the family's `own` keys are not read again, for they may differ between layers."""
    heads = own.get("num_attention_heads") or facts.where_any("attention.head_count")
    hidden = facts.number("embedding_length")
    config: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": facts.layers,
        "num_attention_heads": heads,
        "max_position_embeddings": facts.optional("context_length"),
        "vocab_size": facts.rows("token_embd.weight") or facts.optional("vocab_size") or facts.tokens(),
        "tie_word_embeddings": "output.weight" not in facts.shapes,
        # What is left unquantised in a checkpoint; the file's own types replace it.
        "torch_dtype": "bfloat16",
    }
    if "num_key_value_heads" not in own:
        config["num_key_value_heads"] = facts.number("attention.head_count_kv", heads)
    key_length = None if "head_dim" in own else facts.optional("attention.key_length")
    if key_length:
        config["head_dim"] = key_length
    elif heads > 0 and hidden % heads == 0:
        config["head_dim"] = hidden // heads
    if "intermediate_size" not in own and facts.raw("feed_forward_length") is not None:
        config["intermediate_size"] = facts.number("feed_forward_length") or None
    return config


def gguf_profile(header: Header) -> tuple[Architecture, dict[str, Any]]:
    """
    The architecture of a GGUF file with its own tensors as precision, and the config it amounts to.

    What its metadata and its tensors do not agree on is told in the architecture's notes. Raises
    UnsupportedArchitectureError or HeaderError.
    """
    facts = GgufFacts(header)
    refuse_type(facts, header.metadata.get("general.type"))
    if not header.tensors:
        raise HeaderError(f"{facts.source}: no tensors, only a vocabulary", hint="give the model's GGUF file")
    config = gguf_config(facts)
    try:
        architecture = architecture_from_config(config)
    except ConfigError as error:
        raise HeaderError(f"{short_name(header.source)}: {error}", hint=UNUSUAL) from error
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
    notes = (*architecture.notes, *header.notes, *facts.notes, *remarks(found, what="metadata"))
    return replace(architecture, precision=precision, notes=notes), config


def _most(header: Header) -> str:
    """The type that most bytes have."""
    return next(iter(header.bytes_by_dtype), "f16")
