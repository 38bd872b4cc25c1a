"""GGUF files that are no language model we plan, each with the reason: by their type, or by their architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from vram_planner.errors import HeaderError, UnsupportedArchitectureError

if TYPE_CHECKING:
    from vram_planner.model_profiles.gguf_facts import GgufFacts

_TOWER: Final = (
    "it is a projector (mmproj): the encoder of images or sound beside a language model, no language model"
)
_MODEL_ITSELF: Final = "give the GGUF file of the language model, and this one with --mmproj"
# What `general.type` may say beside "model". Source: llama.cpp, gguf-py/gguf/constants.py, GGUFType.
_TYPES: Final = {
    "adapter": (
        "it is an adapter (LoRA), no model",
        "give the GGUF file of the model that it was made for; the adapter's bytes come on top of its plan",
    ),
    "mmproj": (_TOWER, _MODEL_ITSELF),
    "imatrix": (
        "it is an importance matrix, which a quantiser reads, no model",
        "give the model's GGUF file",
    ),
    "vocab": ("it holds a vocabulary only, no tensors", "give the model's GGUF file"),
}
_ENCODER: Final = "it is an encoder: it reads a text at once, generates none, and keeps no KV cache"
_BOTH: Final = (
    "it has an encoder and a decoder: two stacks and a cache of cross-attention, which is not modelled"
)
_DIFFUSION: Final = "it writes by diffusion: every step reads the whole text again, which is not modelled"
_DRAFT: Final = "it is the draft of another model, and runs beside that one only"
_SPEECH: Final = "it makes or decodes sound, which is not modelled"
_RWKV: Final = "its RWKV layers are newer than RWKV-4, the only ones that are modelled"
# Architectures that are no decoder by themselves. Source: llama.cpp, src/llama-arch.cpp and src/models/.
_ARCHITECTURES: Final = {
    "clip": _TOWER,
    **dict.fromkeys(
        (
            "bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3",
            "eurobert", "gemma-embedding", "llama-embed", "t5encoder",
        ),
        _ENCODER,
    ),
    "t5": _BOTH,
    **dict.fromkeys(("dream", "llada", "llada-moe", "rnd1"), _DIFFUSION),
    **dict.fromkeys(("eagle3", "dflash", "gemma4-assistant"), _DRAFT),
    **dict.fromkeys(("wavtokenizer-dec", "qwen3tts", "pockettts"), _SPEECH),
    **dict.fromkeys(("rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"), _RWKV),
}  # fmt: skip


def refuse_type(facts: GgufFacts, file_type: object) -> None:
    """Raise HeaderError for a file that holds no model: `file_type` is what `general.type` says of it."""
    what, hint = _TYPES.get(str(file_type), (None, ""))
    if what is not None:
        raise HeaderError(f"{facts.source}: {what}", hint=hint)


def refuse_draft(facts: GgufFacts) -> None:
    """
    Raise HeaderError for a file that holds nothing but the layers for multi-token prediction.

    Source: llama.cpp, src/models/glm4-moe.cpp, mtp_only.
    """
    if facts.number("nextn_predict_layers", 0) and "blk.0.attn_norm.weight" not in facts.shapes:
        raise HeaderError(
            f"{facts.source}: it holds only layers for multi-token prediction, the draft of another model",
            hint="give the GGUF file of the model itself",
        )


def refuse_architecture(facts: GgufFacts, known: int) -> NoReturn:
    """Raise UnsupportedArchitectureError with the reason, if there is one; `known` is how many we read."""
    why = _ARCHITECTURES.get(facts.name)
    if why is None:
        why, hint = (
            "is not supported",
            f"{known} others are read; or give the model's config.json and --quant",
        )
        raise UnsupportedArchitectureError(
            f"{facts.source}: the GGUF architecture {facts.name!r} {why}", hint=hint
        )
    hint = _MODEL_ITSELF if why is _TOWER else "give a model that generates text by itself"
    raise UnsupportedArchitectureError(
        f"{facts.source}: of the GGUF architecture {facts.name!r}: {why}", hint=hint
    )
